//! A real browser without a window: Chromium, spoken to in its debugging protocol through a pipe.
//!
//! The protocol: <https://chromedevtools.github.io/devtools-protocol/>. A message is a JSON object and
//! a NUL; what answers a command has its number, everything else is an event.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// One tab, and whatever happened in it.
pub(crate) struct Browser {
    chromium: Child,
    commands: ChildStdin,
    messages: BufReader<ChildStdout>,
    /// Removed when it has ended.
    _profile: tempfile::TempDir,
    /// The tab's.
    session: Option<String>,
    last_command: u64,
    events: VecDeque<Value>,
}

/// No network, no services of its own: it is to show one file.
const OPTIONS: [&str; 11] = [
    "--headless",
    // It is run by root.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
];

impl Browser {
    /// Starts it with a window of this size, in pixels.
    pub(crate) fn start(width: u32, height: u32) -> Self {
        let profile = tempfile::tempdir().expect("a directory");
        let mut chromium = Command::new("sh")
            // It speaks through descriptors 3 and 4.
            .args(["-c", "exec 3<&0 4>&1 </dev/null >/dev/null 2>&1; exec chromium \"$@\"", "sh"])
            .args(OPTIONS)
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run chromium (package chromium)");
        let commands = chromium.stdin.take().expect("it is piped");
        let messages = BufReader::new(chromium.stdout.take().expect("it is piped"));
        let mut browser = Self {
            chromium,
            commands,
            messages,
            _profile: profile,
            session: None,
            last_command: 0,
            events: VecDeque::new(),
        };
        let target = browser.command("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.command("Target.attachToTarget", &attach);
        browser.session = attached["sessionId"].as_str().map(String::from);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.command(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Opens a file, and waits until it is there and its scripts have run.
    pub(crate) fn open(&mut self, path: &Path) {
        let path = path.canonicalize().expect("a file");
        let navigated =
            self.command("Page.navigate", &json!({ "url": format!("file://{}", path.display()) }));
        assert!(navigated.get("errorText").is_none(), "{navigated}");
        self.await_event("Page.loadEventFired");
    }

    /// What an expression is, in the page. A promise is waited for.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let evaluated = self.command("Runtime.evaluate", &parameters);
        assert!(evaluated.get("exceptionDetails").is_none(), "{expression}: {evaluated}");
        evaluated["result"]["value"].clone()
    }

    /// Presses a key that has a name (`Tab`, `Enter`, `ArrowLeft`), and lets go of it.
    pub(crate) fn press(&mut self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            " " => 32,
            "ArrowLeft" => 37,
            "ArrowRight" => 39,
            other => panic!("no code for {other}"),
        };
        let mut press = json!({ "type": "keyDown", "key": key, "windowsVirtualKeyCode": code });
        match key {
            "Enter" => press["text"] = "\r".into(),
            " " => press["text"] = key.into(),
            _ => {}
        }
        self.command("Input.dispatchKeyEvent", &press);
        press["type"] = "keyUp".into();
        self.command("Input.dispatchKeyEvent", &press);
    }

    /// Presses the mouse's button at one place, and lets go of it at another.
    pub(crate) fn drag(&mut self, from: (f64, f64), to: (f64, f64)) {
        let mut mouse = |kind: &str, (x, y): (f64, f64)| {
            let event = json!({
                "type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1,
            });
            self.command("Input.dispatchMouseEvent", &event);
        };
        mouse("mousePressed", from);
        mouse("mouseMoved", to);
        mouse("mouseReleased", to);
    }

    /// As if the user's system were dark, or light.
    pub(crate) fn set_dark(&mut self, is_dark: bool) {
        let value = if is_dark { "dark" } else { "light" };
        let feature = json!({ "name": "prefers-color-scheme", "value": value });
        self.command("Emulation.setEmulatedMedia", &json!({ "features": [feature] }));
    }

    /// Puts what is in the window into a PNG file.
    pub(crate) fn photograph(&mut self, path: &Path) {
        let screenshot = self.command("Page.captureScreenshot", &json!({ "format": "png" }));
        let picture = std::fs::File::create(path).expect("create the picture");
        let mut decode = Command::new("base64")
            .arg("--decode")
            .stdin(Stdio::piped())
            .stdout(picture)
            .spawn()
            .expect("run base64");
        let encoded = screenshot["data"].as_str().expect("a picture");
        decode.stdin.take().expect("it is piped").write_all(encoded.as_bytes()).expect("it reads");
        assert!(decode.wait().expect("it ends").success());
    }

    /// Whatever has happened since the last time that a well-behaved page does not do: a dialog, an
    /// error, a request for anything but the file itself.
    pub(crate) fn misdeeds(&mut self) -> Vec<String> {
        // Its answer comes after everything that has happened before.
        self.evaluate("0");
        let misdeed = |event: Value| {
            let parameters = &event["params"];
            match event["method"].as_str()? {
                "Page.javascriptDialogOpening" => Some(format!("a dialog: {parameters}")),
                "Runtime.exceptionThrown" => Some(format!("an error: {parameters}")),
                "Log.entryAdded" => Some(format!("a complaint: {parameters}")),
                "Network.requestWillBeSent" => {
                    let address = parameters["request"]["url"].as_str().unwrap_or_default();
                    // The file itself; the browser's own picture of a calendar.
                    let is_expected = parameters["type"] == "Document"
                        || address.starts_with("data:image/svg+xml;base64,");
                    (!is_expected).then(|| format!("a request: {address}"))
                }
                _ => None,
            }
        };
        std::mem::take(&mut self.events).into_iter().filter_map(misdeed).collect()
    }

    fn await_event(&mut self, method: &str) {
        loop {
            if let Some(at) = self.events.iter().position(|event| event["method"] == method) {
                self.events.remove(at);
                return;
            }
            let message = self.read();
            self.events.push_back(message);
        }
    }

    fn command(&mut self, method: &str, parameters: &Value) -> Value {
        self.last_command += 1;
        let number = self.last_command;
        let mut command = json!({ "id": number, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        let mut line = command.to_string().into_bytes();
        line.push(0);
        self.commands.write_all(&line).expect("chromium reads");
        loop {
            let mut message = self.read();
            if message["id"] == number {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push_back(message);
        }
    }

    fn read(&mut self) -> Value {
        let mut message = Vec::new();
        self.messages.read_until(0, &mut message).expect("read from chromium");
        assert_eq!(message.pop(), Some(0), "chromium has ended");
        serde_json::from_slice(&message).expect("a message of the DevTools protocol")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.chromium.kill();
        let _ = self.chromium.wait();
    }
}
