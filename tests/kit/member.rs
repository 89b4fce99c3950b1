//! One ham4db member as a process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::http::{Api, WRITE_TOKEN};
use super::manifests::Document;
use super::netns::Host;
use super::process::{Launch, Process};
use super::run::{Run, hand_over};
use super::sql::Address;
use super::wait::until;

/// How long a member may take until its API answers. Its budget is one second; a debug build on a busy machine gets ten times that.
const START: Duration = Duration::from_secs(10);

/// The key by which the members of all groups of tests know each other.
const GROUP_KEY: &str = "group-key-of-tests-5b1f2a";

/// The program under test: in `HAM4DB_BIN_DIR` when that is set, else the one that cargo built together with the test, the demo, the
/// bench or chaos.
pub(crate) fn program() -> Result<PathBuf> {
    let program = match (std::env::var_os("HAM4DB_BIN_DIR"), option_env!("CARGO_BIN_EXE_ham4db")) {
        (Some(folder), _) => Path::new(&folder).join("ham4db"),
        (None, Some(built)) => PathBuf::from(built),
        // An example lies in a folder of its own, one level below the programs.
        (None, None) => std::env::current_exe()
            .context("find this program's own path")?
            .ancestors()
            .nth(2)
            .context("this program lies in no folder of examples")?
            .join("ham4db"),
    };
    ensure!(
        program.is_file(),
        "there is no program {}: tests/setup/build.sh builds it",
        program.display()
    );
    Ok(program)
}

/// A member, running or not.
#[derive(Debug)]
pub(crate) struct Member {
    name: String,
    api: Api,
    address: Address,
    host: Option<Host>,
    folder: PathBuf,
    launch: Launch,
    process: Option<Process>,
}

impl Member {
    /// Writes its configuration. `configuration` is complete but for the paths, which are below the member's own folder.
    pub(crate) fn prepare(
        run: &Run,
        name: &str,
        address: &Address,
        host: Option<Host>,
        mut configuration: Value,
        document: Option<&Document>,
    ) -> Result<Self> {
        let folder = run.subfolder(name)?;
        // `data`: what lies there may hold credentials, so it is not searched for passwords.
        let data = run.subfolder(&format!("{name}/data"))?;
        let keys = configuration
            .as_object_mut()
            .context("the configuration of a member is a JSON object")?;
        keys.insert("RaftDataDir".into(), data.to_string_lossy().into());
        keys.insert(
            "SQLite3DataFile".into(),
            data.join("ham4db.sqlite").to_string_lossy().into(),
        );
        for (key, name, secret) in [
            ("RaftGroupKeyFile", "group-key", GROUP_KEY),
            ("APIWriteTokenFile", "api-token", WRITE_TOKEN),
        ] {
            let file = data.join(name);
            fs::write(&file, secret).with_context(|| format!("write {}", file.display()))?;
            hand_over(&file)?;
            keys.entry(key).or_insert_with(|| file.to_string_lossy().into());
        }
        let file = folder.join("ham4db.conf.json");
        fs::write(&file, serde_json::to_string_pretty(&configuration)?)
            .with_context(|| format!("write {}", file.display()))?;
        hand_over(&file)?;
        let mut arguments = vec![
            "server".to_owned(),
            "--config".to_owned(),
            file.to_string_lossy().into_owned(),
        ];
        if let Some(document) = document {
            let manifests = run.subfolder(&format!("{name}/manifests"))?;
            document.write(&manifests)?;
            arguments.extend(["--manifests".to_owned(), manifests.to_string_lossy().into_owned()]);
        }
        let launch = Launch {
            name: name.to_owned(),
            program: program()?,
            arguments,
            environment: Vec::new(),
            log: run.log(name),
            namespace: host.as_ref().map(|host| host.namespace.clone()),
        };
        Ok(Self {
            name: name.to_owned(),
            api: Api::new(address)?,
            address: address.clone(),
            host,
            folder,
            launch,
            process: None,
        })
    }

    /// Adds keys to its configuration, for its next start.
    pub(crate) fn set_keys(&self, more: &Value) -> Result<()> {
        let file = self.folder.join("ham4db.conf.json");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let mut configuration: Value = serde_json::from_str(&text)?;
        let keys = configuration
            .as_object_mut()
            .context("the configuration of a member is a JSON object")?;
        keys.extend(more.as_object().cloned().unwrap_or_default());
        fs::write(&file, serde_json::to_string_pretty(&configuration)?)
            .with_context(|| format!("write {}", file.display()))?;
        hand_over(&file)
    }

    /// Its name in this run, like `member1`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its API.
    pub(crate) fn api(&self) -> &Api {
        &self.api
    }

    /// Its metrics as text.
    pub(crate) async fn metrics(&self) -> Result<String> {
        let url = format!("http://{}/metrics", self.address);
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .context("make an HTTP client")?;
        let answer = client.get(&url).timeout(Duration::from_secs(10)).send().await;
        let answer = answer.with_context(|| format!("GET {url}"))?;
        answer.text().await.with_context(|| format!("read the answer of {url}"))
    }

    /// Where its API listens.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Its network namespace, if it has one.
    pub(crate) fn host(&self) -> Result<&Host> {
        self.host
            .as_ref()
            .with_context(|| format!("{} has no network namespace", self.name))
    }

    /// Where its documents and their status lie.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// Where its raft log and its backend lie.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The file by which its clock can be made to jump, once [`Member::let_clock_jump`] was called before its start.
    pub(crate) fn clock_file(&self) -> PathBuf {
        self.data().join("clock-offset")
    }

    /// From its next start on its clock is wrong by the milliseconds in [`Member::clock_file`].
    pub(crate) fn let_clock_jump(&mut self) {
        let file = self.clock_file().to_string_lossy().into_owned();
        self.set_environment("HAM4DB_CLOCK_OFFSET_FILE", Some(&file));
    }

    /// Sets an environment variable for its next start, or takes it away again.
    pub(crate) fn set_environment(&mut self, name: &str, value: Option<&str>) {
        self.launch.environment.retain(|(known, _)| known != name);
        if let Some(value) = value {
            self.launch.environment.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Starts it, without waiting.
    pub(crate) fn launch(&mut self) -> Result<()> {
        ensure!(!self.is_running()?, "{} runs already", self.name);
        self.process = Some(Process::spawn(&self.launch)?);
        Ok(())
    }

    /// Waits until its API answers anything at all.
    pub(crate) async fn serves(&mut self) -> Result<()> {
        let mut ended = None;
        let what = format!("the API of {}", self.name);
        until(START, &what, async || {
            ended = self.process.as_mut().map(Process::exited).transpose()?.flatten();
            if ended.is_none() {
                self.api.get("leader-check").await?;
            }
            Ok(Some(()))
        })
        .await?;
        if let Some(status) = ended {
            bail!(
                "{} ended right after its start ({status}): see {}",
                self.name,
                self.launch.log.display()
            );
        }
        Ok(())
    }

    /// Whether its process is there.
    pub(crate) fn is_running(&mut self) -> Result<bool> {
        match &mut self.process {
            Some(process) => Ok(process.exited()?.is_none()),
            None => Ok(false),
        }
    }

    /// Its process.
    pub(crate) fn process(&self) -> Result<&Process> {
        self.process
            .as_ref()
            .with_context(|| format!("{} does not run", self.name))
    }

    /// SIGKILL. Returns the instant just before it.
    pub(crate) fn kill(&mut self) -> Result<Instant> {
        let mut process = self
            .process
            .take()
            .with_context(|| format!("{} does not run", self.name))?;
        process.kill()
    }

    /// SIGTERM, and waits for its end.
    pub(crate) async fn terminate(&mut self, limit: Duration) -> Result<()> {
        let mut process = self
            .process
            .take()
            .with_context(|| format!("{} does not run", self.name))?;
        process.signal("TERM")?;
        let status = process.ended(limit).await?;
        ensure!(status.success(), "{} ended with {status} after SIGTERM", self.name);
        Ok(())
    }

    /// Waits for it to end by itself, as at a failpoint.
    pub(crate) async fn ends(&mut self, limit: Duration) -> Result<()> {
        let mut process = self
            .process
            .take()
            .with_context(|| format!("{} does not run", self.name))?;
        match process.ended(limit).await {
            Ok(_) => Ok(()),
            Err(error) => {
                self.process = Some(process);
                Err(error)
            }
        }
    }

    /// Removes all that it has stored, as a lost disk does. Only while it does not run.
    pub(crate) fn wipe(&mut self) -> Result<()> {
        ensure!(!self.is_running()?, "{} runs: its data cannot be removed", self.name);
        let data = self.data();
        fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
        fs::create_dir(&data).with_context(|| format!("create {}", data.display()))?;
        hand_over(&data)
    }
}
