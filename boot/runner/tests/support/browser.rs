//! A headless browser, driven over its DevTools protocol: requests out, answers and events in, each one JSON text and a zero byte.
//!
//! Chromium reads them from descriptor 3 and writes them to descriptor 4 (`--remote-debugging-pipe`), which a shell makes of its
//! standard input and output.
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tinyjson::JsonValue;

use super::Scratch;

/// What a page shows on a screen of this size.
const WIDTH: u32 = 1600;
const HEIGHT: u32 = 1000;

/// A browser with one page.
pub struct Browser {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    next: u32,
    session: Option<String>,
    /// Console errors, exceptions, and whatever the browser complained of.
    pub complaints: Vec<String>,
    /// Addresses that were asked for.
    pub requested: Vec<String>,
    _profile: Scratch,
}

impl Browser {
    /// Starts Chromium. Root cannot have its sandbox.
    pub fn start() -> Self {
        let profile = Scratch::new();
        let command = format!(
            "exec chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --remote-debugging-pipe \
             --window-size={WIDTH},{HEIGHT} --user-data-dir='{}' about:blank 3<&0 4>&1 >/dev/null 2>&1",
            profile.path().display()
        );
        let mut child = Command::new("bash")
            .args(["-c", &command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash runs");
        let (requests, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (complaints, requested) = (Vec::new(), Vec::new());
        let mut browser =
            Self { child, requests, answers, next: 0, session: None, complaints, requested, _profile: profile };
        let target = browser.ask("Target.createTarget", r#"{"url":"about:blank"}"#);
        let target = target["targetId"].get::<String>().unwrap();
        let attached = browser.ask("Target.attachToTarget", &format!(r#"{{"targetId":"{target}","flatten":true}}"#));
        browser.session = Some(attached["sessionId"].get::<String>().unwrap().clone());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.ask(&format!("{domain}.enable"), "{}");
        }
        browser
    }

    /// Opens a file, and waits until its scripts have run.
    pub fn open(&mut self, file: &Path) {
        self.ask("Page.navigate", &format!(r#"{{"url":"file://{}"}}"#, file.display()));
        for _ in 0..600 {
            let ready = self.evaluate("document.readyState === 'complete' && location.protocol === 'file:'");
            if *ready.get::<bool>().unwrap() {
                assert_eq!(self.complaints, [""; 0], "the page does not start");
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{} does not load: {:?}", file.display(), self.complaints);
    }

    /// The value of a JavaScript expression; promises are waited for.
    pub fn evaluate(&mut self, expression: &str) -> JsonValue {
        let text = JsonValue::from(expression.to_owned()).stringify().unwrap();
        let parameters = format!(r#"{{"expression":{text},"returnByValue":true,"awaitPromise":true}}"#);
        let answer = self.ask("Runtime.evaluate", &parameters);
        let object: &std::collections::HashMap<String, JsonValue> = answer.get().unwrap();
        assert!(!object.contains_key("exceptionDetails"), "{expression}: {}", answer.stringify().unwrap());
        let result: &std::collections::HashMap<String, JsonValue> = answer["result"].get().unwrap();
        result.get("value").cloned().unwrap_or(JsonValue::Null)
    }

    /// The text that a JavaScript expression yields.
    pub fn text(&mut self, expression: &str) -> String {
        self.evaluate(expression).get::<String>().unwrap_or_else(|| panic!("{expression} is no text")).clone()
    }

    /// The number that a JavaScript expression yields.
    pub fn number(&mut self, expression: &str) -> f64 {
        *self.evaluate(expression).get::<f64>().unwrap_or_else(|| panic!("{expression} is no number"))
    }

    /// Presses a key, as a person does, and waits until the page has drawn what follows.
    pub fn press(&mut self, key: &str) {
        for kind in ["rawKeyDown", "keyUp"] {
            self.ask("Input.dispatchKeyEvent", &format!(r#"{{"type":"{kind}","key":"{key}","code":"{key}"}}"#));
        }
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))");
    }

    /// Shows the page as for somebody who prefers this colour scheme.
    pub fn prefer(&mut self, scheme: &str) {
        let features = format!(r#"{{"features":[{{"name":"prefers-color-scheme","value":"{scheme}"}}]}}"#);
        self.ask("Emulation.setEmulatedMedia", &features);
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))");
    }

    /// A picture of what the page shows, as the base64 text of a PNG.
    pub fn picture(&mut self) -> String {
        self.ask("Page.captureScreenshot", r#"{"format":"png"}"#)["data"].get::<String>().unwrap().clone()
    }

    fn ask(&mut self, method: &str, parameters: &str) -> JsonValue {
        self.next += 1;
        let session = self.session.as_ref().map_or(String::new(), |session| format!(r#","sessionId":"{session}""#));
        let request = format!(r#"{{"id":{},"method":"{method}","params":{parameters}{session}}}"#, self.next);
        self.requests.write_all(request.as_bytes()).expect("is chromium installed? ./run.sh test installs it");
        self.requests.write_all(&[0]).unwrap();
        loop {
            let mut bytes = Vec::new();
            self.answers.read_until(0, &mut bytes).unwrap();
            assert_eq!(bytes.pop(), Some(0), "the browser has ended; is chromium installed? ./run.sh test installs it");
            let answer: JsonValue = String::from_utf8(bytes).unwrap().parse().unwrap();
            let object: &std::collections::HashMap<String, JsonValue> = answer.get().unwrap();
            match object.get("id").and_then(|id| id.get::<f64>()) {
                Some(id) if *id as u32 == self.next => {
                    assert!(!object.contains_key("error"), "{method}: {}", answer.stringify().unwrap());
                    return answer["result"].clone();
                }
                Some(_) => {}
                None => self.note(&answer),
            }
        }
    }

    fn note(&mut self, event: &JsonValue) {
        let text = || event.stringify().unwrap();
        match event["method"].get::<String>().unwrap().as_str() {
            "Runtime.exceptionThrown" | "Log.entryAdded" => self.complaints.push(text()),
            "Runtime.consoleAPICalled" if event["params"]["type"].get::<String>().unwrap() != "log" => {
                self.complaints.push(text());
            }
            "Network.requestWillBeSent" => {
                self.requested.push(event["params"]["request"]["url"].get::<String>().unwrap().clone());
            }
            _ => {}
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
