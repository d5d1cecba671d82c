//! A real browser without a window, spoken to in the W3C WebDriver protocol. It dies with the value, also on a panic.
//!
//! Needs `chromium` and `chromedriver` on the `PATH` (on Debian: `apt-get install chromium chromium-driver`), or named by
//! `SUPER_NODE_CHROMIUM` and `SUPER_NODE_CHROMEDRIVER`.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

/// Patience for what a page should come to show.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// One window of a browser with a profile of its own.
pub struct Browser {
    driver: Child,
    http: reqwest::Client,
    /// The URL of the session.
    session: String,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser hangs on a pipe to its driver, and ends with it.
        let _already_dead = self.driver.kill();
        let _reaped = self.driver.wait();
    }
}

fn program(variable: &str, names: &[&str]) -> PathBuf {
    if let Some(named) = std::env::var_os(variable) {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)))
        .find(|file| file.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no {} on the PATH: the tests of the dashboard need a real browser; install it (Debian: apt-get install \
             chromium chromium-driver) or name it in {variable}",
            names.join(" or ")
        )
    })
}

impl Browser {
    /// Starts a driver and a browser, with a window of 1280 by 900.
    pub async fn start() -> Browser {
        let chromium = program("SUPER_NODE_CHROMIUM", &["chromium", "chromium-browser", "google-chrome"]);
        let profile = tempfile::tempdir().expect("a temporary directory");
        let mut driver = Command::new(program("SUPER_NODE_CHROMEDRIVER", &["chromedriver"]))
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let lines = BufReader::new(driver.stdout.take().expect("its output")).lines();
        let said = lines.map_while(Result::ok).find(|line| line.contains("started successfully on port"));
        let said = said.expect("chromedriver says its port");
        let port = said.rsplit(' ').next().expect("a word").trim_end_matches('.').to_string();
        let http = super_node::network::tls::http(None).expect("public authorities").no_proxy();
        let mut browser = Browser {
            driver,
            http: http.build().expect("an HTTP client"),
            session: format!("http://127.0.0.1:{port}/session"),
            _profile: profile,
        };
        let folder = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--remote-debugging-pipe",
            &folder,
        ];
        let options = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let begun = browser.ask("", Some(options)).await;
        browser.session.push_str(&format!("/{}", begun["sessionId"].as_str().expect("a session")));
        browser.open("about:blank").await;
        browser.resize(1280, 900).await;
        // What the browser asked for on its own, before it was told where to go.
        browser.log("performance").await;
        browser
    }

    async fn ask(&self, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}{path}", self.session);
        let request = match body {
            Some(body) => self.http.post(&url).json(&body),
            None => self.http.get(&url),
        };
        let answer = request.send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
        let status = answer.status();
        let mut answer: Value = answer.json().await.expect("WebDriver speaks JSON");
        let value = answer["value"].take();
        assert!(status.is_success(), "{path}: {value}");
        value
    }

    /// Goes to a page and waits until it is loaded.
    pub async fn open(&self, url: &str) {
        self.ask("/url", Some(json!({"url": url}))).await;
    }

    /// Runs the body of a function in the page and returns what it returns.
    pub async fn run(&self, script: &str) -> Value {
        self.ask("/execute/sync", Some(json!({"script": script, "args": []}))).await
    }

    /// Repeats an expression until it is true.
    pub async fn until(&self, what: &str, expression: &str) {
        let begun = Instant::now();
        while self.run(&format!("return Boolean({expression})")).await != Value::Bool(true) {
            if begun.elapsed() > PATIENCE {
                panic!("{what}: not within {PATIENCE:?}; the page says\n{}", self.text("body").await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The text of the first element that a selector finds; empty if there is none.
    pub async fn text(&self, selector: &str) -> String {
        let selector = Value::from(selector);
        let script = format!("return (document.querySelector({selector}) || {{}}).innerText || ''");
        self.run(&script).await.as_str().unwrap_or_default().to_string()
    }

    async fn devtools(&self, command: &str, parameters: Value) {
        self.ask("/goog/cdp/execute", Some(json!({"cmd": command, "params": parameters}))).await;
    }

    /// The size of the page's window, in CSS pixels.
    pub async fn resize(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// For pictures.
    pub async fn hide_scrollbars(&self) {
        self.devtools("Emulation.setScrollbarsHidden", json!({"hidden": true})).await;
    }

    /// What the system is said to prefer: `light` or `dark`.
    pub async fn prefers(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// Presses and releases a key: a character, or one of WebDriver's private ones (`\u{e004}` is Tab).
    pub async fn press(&self, key: &str) {
        let strokes = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]});
        self.ask("/actions", Some(actions)).await;
    }

    /// The window as PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        let text = self.ask("/screenshot", None).await;
        let text = text.as_str().expect("base64");
        base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.ask("/se/log", Some(json!({ "type": kind }))).await;
        entries.as_array().expect("entries").clone()
    }

    /// Warnings and errors on the console since the last time.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self.log("browser").await.into_iter();
        let bad = entries.filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        bad.map(|entry| entry["message"].to_string()).collect()
    }

    /// The URLs that were asked for since the last time.
    pub async fn requests(&self) -> Vec<String> {
        let mut urls = Vec::new();
        for entry in self.log("performance").await {
            let text = entry["message"].as_str().unwrap_or_default();
            let message: Value = serde_json::from_str(text).expect("DevTools speaks JSON");
            if message["message"]["method"] == "Network.requestWillBeSent" {
                let url = message["message"]["params"]["request"]["url"].as_str().expect("a URL");
                urls.push(url.to_string());
            }
        }
        urls
    }
}
