//! Owns a real Chromium, driven through chromedriver (W3C WebDriver, 2018, and Chromium's extensions to it): pages, what is
//! on them, what the browser said. Must not own what a page should show.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::http;
use crate::process::{Process, Stream};
use crate::require::Requirement::{Chromedriver, Chromium};
use crate::sandbox::Sandbox;
use crate::wait::eventually;

/// Of an element in answers (WebDriver, section 12.2).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one window. Killed when dropped.
#[derive(Debug)]
pub struct Browser {
    /// Ends with this.
    _driver: Process,
    address: SocketAddr,
    session: String,
}

impl Browser {
    /// Starts one with a window of this size.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(sandbox: &Sandbox, width: u32, height: u32) -> Result<Self> {
        let driver = Chromedriver.program().context("checked before")?;
        let chromium = Chromium.program().context("checked before")?;
        let mut command = sandbox.bare_command(&driver);
        command.args(["--port=0", "--allowed-ips=127.0.0.1"]);
        let driver = Process::spawn("chromedriver", &mut command)?;
        let port: u16 = driver.line(Stream::Stdout, |line| {
            line.split_once("started successfully on port ")?.1.trim_end_matches('.').trim().parse().ok()
        })?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", sandbox.path("chromium").display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let answer = http::post(address, "/session", &wanted)?.json()?;
        let session = answer["value"]["sessionId"].as_str().with_context(|| answer.to_string())?.to_owned();
        Ok(Self { _driver: driver, address, session })
    }

    fn ask(&self, path: &str, body: &Value) -> Result<Value> {
        let path = format!("/session/{}{path}", self.session);
        let mut answer = http::post(self.address, &path, body)?.json().with_context(|| format!("{path} {body}"))?;
        Ok(answer["value"].take())
    }

    fn command(&self, command: &str, parameters: Value) -> Result<Value> {
        self.ask("/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Opens a page, and waits until it is loaded.
    ///
    /// # Errors
    /// If it does not load.
    pub fn open(&self, url: &str) -> Result<()> {
        self.ask("/url", &json!({ "url": url })).map(drop)
    }

    /// What a function body of JavaScript returns.
    ///
    /// # Errors
    /// If it throws.
    pub fn script(&self, body: &str) -> Result<Value> {
        self.ask("/execute/sync", &json!({"script": body, "args": []}))
    }

    /// Waits until a function body returns something that is true.
    ///
    /// # Errors
    /// If it does not.
    pub fn eventually(&self, body: &str) -> Result<()> {
        eventually(body, || {
            let found = self.script(body)?;
            ensure!(found == true, "{found}");
            Ok::<_, anyhow::Error>(())
        })
    }

    /// The text, as shown, of every element that a selector finds.
    ///
    /// # Errors
    /// If the browser is gone.
    pub fn texts(&self, selector: &str) -> Result<Vec<String>> {
        let body = format!("return [...document.querySelectorAll({})].map(e => e.innerText)", json!(selector));
        serde_json::from_value(self.script(&body)?).context("texts")
    }

    /// What assistive technology calls every element that a selector finds (WebDriver, "Get Computed Label").
    ///
    /// # Errors
    /// If the browser is gone.
    pub fn names(&self, selector: &str) -> Result<Vec<String>> {
        let found = self.ask("/elements", &json!({"using": "css selector", "value": selector}))?;
        let ids = found.as_array().context("elements")?.iter().filter_map(|element| element[ELEMENT].as_str());
        let name = |id: &str| -> Result<String> {
            let path = format!("/session/{}/element/{id}/computedlabel", self.session);
            let answer = http::send(self.address, "GET", &path, &[], b"")?.json()?;
            Ok(answer["value"].as_str().context("a label")?.to_owned())
        };
        ids.map(name).collect()
    }

    /// Presses keys, `\u{e004}` for Tab and others as WebDriver has them.
    ///
    /// # Errors
    /// If the browser is gone.
    pub fn press(&self, keys: &str) -> Result<()> {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})])
            .collect();
        self.ask("/actions", &json!({"actions": [{"type": "key", "id": "keys", "actions": actions}]})).map(drop)
    }

    /// Makes the page so wide, as a small screen would be, whatever the least width of a window is.
    ///
    /// # Errors
    /// If the browser is gone.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.command("Emulation.setDeviceMetricsOverride", metrics).map(drop)
    }

    /// What the page is told that its reader likes: `light` or `dark`.
    ///
    /// # Errors
    /// If the browser is gone.
    pub fn prefer(&self, scheme: &str) -> Result<()> {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.command("Emulation.setEmulatedMedia", features).map(drop)
    }

    /// Turns scripts off or on for what is loaded after.
    ///
    /// # Errors
    /// If the browser is gone.
    pub fn allow_scripts(&self, allowed: bool) -> Result<()> {
        self.command("Emulation.setScriptExecutionDisabled", json!({ "value": !allowed })).map(drop)
    }

    /// The whole page as it looks, as PNG.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn picture(&self, file: &Path) -> Result<()> {
        let shot = self.command("Page.captureScreenshot", json!({"captureBeyondViewport": true}))?;
        let base64 = shot["data"].as_str().context("a picture")?;
        let bytes = driftlock_common::path::from_base64(base64).context("a picture in base64")?;
        std::fs::write(file, bytes).with_context(|| file.display().to_string())
    }

    /// What the browser said since this was asked last, of level warning and above: errors of scripts, what a security
    /// policy kept out, what could not be loaded.
    ///
    /// # Errors
    /// If the browser is gone.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let log = self.ask("/se/log", &json!({"type": "browser"}))?;
        let entries = log.as_array().context("a log")?.iter();
        let loud = entries.filter(|entry| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING")));
        Ok(loud.map(|entry| entry["message"].to_string()).collect())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Closes the browser; the driver itself is killed after that.
        let _gone = http::send(self.address, "DELETE", &format!("/session/{}", self.session), &[], b"");
    }
}
