//! Writes JSON objects whose keys keep their order and whose 64-bit numbers keep all their digits.
use std::fmt::{self, Display, Write};

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A whole number.
    Number(i128),
    /// A number with two digits behind the point, as so many hundredths.
    Hundredths(u64),
    /// A text.
    Text(String),
    /// Values in this order.
    Array(Vec<Json>),
    /// Members in the order in which they are written.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// An object of these members, in this order.
    pub fn object<const N: usize>(members: [(&str, Json); N]) -> Self {
        Self::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }
}

impl From<u64> for Json {
    fn from(number: u64) -> Self {
        Self::Number(number.into())
    }
}

impl From<u32> for Json {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<i64> for Json {
    fn from(number: i64) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Hundredths(number) => write!(f, "{}.{:02}", number / 100, number % 100),
            Self::Text(text) => quote(f, text),
            Self::Array(values) => {
                f.write_char('[')?;
                for (i, value) in values.iter().enumerate() {
                    let separator = if i > 0 { "," } else { "" };
                    write!(f, "{separator}{value}")?;
                }
                f.write_char(']')
            }
            Self::Object(members) => {
                f.write_char('{')?;
                for (i, (key, value)) in members.iter().enumerate() {
                    if i > 0 {
                        f.write_char(',')?;
                    }
                    quote(f, key)?;
                    write!(f, ":{value}")?;
                }
                f.write_char('}')
            }
        }
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' | '\\' => write!(f, "\\{character}")?,
            control if (control as u32) < 0x20 => write!(f, "\\u{:04x}", control as u32)?,
            other => f.write_char(other)?,
        }
    }
    f.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_reader_reads_what_is_written() {
        let text = "a \"quoted\" back\\slash,\nnew line, tab\t, é and \u{1}";
        let json = Json::object([
            ("text", Json::from(text.to_owned())),
            ("none", Json::from(None::<u64>)),
            ("number", Json::from(-3_i64)),
            ("list", Json::Array(vec![Json::from(true), Json::Null])),
            ("inner", Json::object([("yes", true.into())])),
        ]);
        let read: tinyjson::JsonValue = json.to_string().parse().unwrap();
        assert_eq!(read["text"].get::<String>().unwrap(), text);
        assert!(read["none"].is_null());
        assert_eq!(*read["number"].get::<f64>().unwrap(), -3.0);
        assert!(*read["list"][0].get::<bool>().unwrap() && read["list"][1].is_null());
        assert!(*read["inner"]["yes"].get::<bool>().unwrap());
    }

    #[test]
    fn large_numbers_keep_their_digits_and_keys_their_order() {
        let json = Json::object([("z", Json::from(u64::MAX)), ("a", Json::from(1_u32)), ("b", Json::Hundredths(1207))]);
        assert_eq!(json.to_string(), r#"{"z":18446744073709551615,"a":1,"b":12.07}"#);
    }
}
