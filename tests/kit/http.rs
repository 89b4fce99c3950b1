//! Asking a member over HTTP.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::sql::Address;

/// How long a request of a test may take; the sampler has its own, shorter deadline.
const REQUEST: Duration = Duration::from_secs(10);

/// The token of all APIs of tests.
pub(crate) const WRITE_TOKEN: &str = "api-token-of-tests-94c07d";

/// One member's API.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    client: reqwest::Client,
    address: Address,
}

impl Api {
    /// The API at an address.
    pub(crate) fn new(address: &Address) -> Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none());
        let client = client
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(1))
            .timeout(REQUEST)
            .build();
        Ok(Self {
            client: client.context("make an HTTP client")?,
            address: address.clone(),
        })
    }

    /// The URL of a path below `/api/`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/api/{path}", self.address)
    }

    /// The code and body that a path below `/api/` answers with.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String)> {
        self.get_within(path, REQUEST).await
    }

    /// The same under another deadline.
    pub(crate) async fn get_within(&self, path: &str, limit: Duration) -> Result<(u16, String)> {
        let url = self.url(path);
        let response = self
            .client
            .get(&url)
            .bearer_auth(WRITE_TOKEN)
            .timeout(limit)
            .send()
            .await
            .with_context(|| format!("GET {url}"))?;
        let code = response.status().as_u16();
        let body = response
            .text()
            .await
            .with_context(|| format!("read the answer of {url}"))?;
        Ok((code, body))
    }

    /// The JSON that a path answers with; another code than 200 is an error.
    pub(crate) async fn json(&self, path: &str) -> Result<Value> {
        let (code, body) = self.get(path).await?;
        ensure!(code == 200, "GET {} answers {code}: {body}", self.url(path));
        serde_json::from_str(&body).with_context(|| format!("{} answers no JSON: {body}", self.url(path)))
    }

    /// The `Details` of an answer in the usual envelope, `Code` being OK.
    pub(crate) async fn details(&self, path: &str) -> Result<Value> {
        let answer = self.json(path).await?;
        ensure!(
            answer.get("Code").and_then(Value::as_str) == Some("OK"),
            "{} answers {answer}",
            self.url(path)
        );
        Ok(answer.get("Details").cloned().unwrap_or_default())
    }
}

/// The text of a field, reached through a path like `/AnalyzedInstanceKey/Hostname`; empty when it is not there.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The `HOST:PORT` of a `{"Hostname", "Port"}` object; empty when it is none.
pub(crate) fn key(value: &Value, pointer: &str) -> String {
    let host = text(value, &format!("{pointer}/Hostname"));
    let port = value
        .pointer(&format!("{pointer}/Port"))
        .and_then(Value::as_u64)
        .unwrap_or_default();
    if host.is_empty() {
        String::new()
    } else {
        format!("{host}:{port}")
    }
}
