//! A real etcd on 127.0.0.1, with a client that reads and changes it over HTTP.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Certificate, Client};
use serde_json::{Value, json};

use super::ports::PortLease;
use super::process::{Launch, Process};
use super::run::hand_over;
use super::tools::find_tool;
use super::wait::until;

/// How long it may take to start.
const START: Duration = Duration::from_mins(1);

/// PEM files for TLS.
#[derive(Clone, Debug)]
pub(crate) struct EtcdTls {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// A running etcd. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Etcd {
    endpoint: String,
    client: Client,
    _ports: [PortLease; 2],
    _process: Process,
}

impl Etcd {
    /// Starts it with its data in `folder`.
    pub(crate) async fn start(folder: &Path, tls: Option<&EtcdTls>) -> Result<Self> {
        drop(rustls::crypto::ring::default_provider().install_default());
        hand_over(folder)?;
        let ports = [PortLease::take()?, PortLease::take()?];
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://127.0.0.1:{}", ports[0].port());
        let peer = format!("http://127.0.0.1:{}", ports[1].port());
        let mut arguments = vec![
            format!("--data-dir={}", folder.join("data").display()),
            format!("--listen-client-urls={endpoint}"),
            format!("--advertise-client-urls={endpoint}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        let mut client = Client::builder().no_proxy().timeout(Duration::from_secs(5));
        if let Some(tls) = tls {
            for (option, file) in [("cert-file", &tls.certificate), ("key-file", &tls.key)] {
                let copy = folder.join(option);
                fs::copy(file, &copy).with_context(|| format!("copy {}", file.display()))?;
                hand_over(&copy)?;
                arguments.push(format!("--{option}={}", copy.display()));
            }
            client = client.add_root_certificate(Certificate::from_pem(&fs::read(&tls.authority)?)?);
        }
        let process = Process::spawn(&Launch {
            name: "etcd".to_owned(),
            program: find_tool("etcd")?,
            arguments,
            environment: Vec::new(),
            log: folder.join("log"),
            namespace: None,
        })?;
        let etcd = Self {
            endpoint,
            client: client.build()?,
            _ports: ports,
            _process: process,
        };
        until(START, "etcd to answer", async || {
            etcd.call("/v3/kv/range", &json!({"key": "YQ=="}), None).await.map(Some)
        })
        .await?;
        Ok(etcd)
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// One request of the JSON gateway.
    pub(crate) async fn call(&self, path: &str, body: &Value, token: Option<&str>) -> Result<Value> {
        let mut request = self.client.post(format!("{}{path}", self.endpoint)).json(body);
        if let Some(token) = token {
            request = request.header("Authorization", token);
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "{path} {body}: {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// All keys with their values.
    pub(crate) async fn all(&self) -> Result<BTreeMap<String, String>> {
        let answer = self
            .call("/v3/kv/range", &json!({"key": "AA==", "range_end": "AA=="}), None)
            .await?;
        let pairs = answer.get("kvs").and_then(Value::as_array).cloned().unwrap_or_default();
        let decoded = |value: Option<&Value>| -> Result<String> {
            let text = value.and_then(Value::as_str).unwrap_or_default();
            Ok(String::from_utf8(STANDARD.decode(text)?)?)
        };
        pairs
            .iter()
            .map(|pair| Ok((decoded(pair.get("key"))?, decoded(pair.get("value"))?)))
            .collect()
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> Result<()> {
        let body = json!({"key": encoded(key), "value": encoded(value)});
        self.call("/v3/kv/put", &body, None).await.map(drop)
    }

    pub(crate) async fn delete(&self, key: &str) -> Result<()> {
        self.call("/v3/kv/deleterange", &json!({"key": encoded(key)}), None)
            .await
            .map(drop)
    }
}

/// A text as the gateway takes it.
pub(crate) fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}
