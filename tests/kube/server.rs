//! A real API server, shared by the tests that run at the same time.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ham4db::adapter::kube::{Client, client};
use ham4db::resource::MySQLCluster;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use super::kit::run::cache;
use super::kit::tools::find_tool;

pub(crate) const DEFINITION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/crds/mysqlclusters.ham4db.io.yaml");
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster");

static NUMBER: AtomicU32 = AtomicU32::new(0);
static SHARED: OnceLock<Arc<Server>> = OnceLock::new();
static TURN: Turn = Turn {
    is_taken: Mutex::new(false),
    ended: Condvar::new(),
};

/// kube-apiserver and etcd on free ports. One of a test's own ends with its last user, the shared one with the test program.
pub(crate) struct Server {
    run: PathBuf,
    kubeconfig: PathBuf,
    /// The words that start kube-apiserver, while it is stopped.
    stopped: Mutex<Option<Vec<String>>>,
    /// Held by a server of a test's own: two cores carry one of these beside the shared one.
    _turn: Option<Taken>,
}

/// The turn to have an API server of one's own. Any thread may end it, as the last user of a server may be on any.
struct Turn {
    is_taken: Mutex<bool>,
    ended: Condvar,
}

/// Ends the turn when dropped.
struct Taken;

impl Turn {
    fn take(&self) -> Taken {
        let mut is_taken = self.is_taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *is_taken {
            is_taken = self.ended.wait(is_taken).unwrap_or_else(PoisonError::into_inner);
        }
        *is_taken = true;
        Taken
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        *TURN.is_taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        TURN.ended.notify_one();
    }
}

impl Server {
    /// One of the test's own, without the resource definition. Waits until no other test has one.
    pub(crate) fn bare() -> Arc<Self> {
        Arc::new(Self::start(Some(TURN.take())))
    }

    fn start(turn: Option<Taken>) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // NAME-PID, as all runs are called: one whose process is gone is removed by the next.
        let run = cache()
            .expect("a cache folder")
            .join(format!("run/test-kube-{number}-{}", std::process::id()));
        let output = Command::new(format!("{SCRIPTS}/apiserver-up.sh"))
            .env("RUN", &run)
            .output()
            .expect("the script can be run");
        assert!(
            output.status.success(),
            "apiserver-up.sh: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self {
            kubeconfig: run.join("kubeconfig"),
            run,
            stopped: Mutex::default(),
            _turn: turn,
        }
    }

    /// The shared one, with the resource definition. Every test has a namespace of its own there.
    pub(crate) fn shared() -> Arc<Self> {
        let shared = SHARED.get_or_init(|| {
            let server = Self::start(None);
            server.end_with_this_program();
            server.apply_definition();
            Arc::new(server)
        });
        Arc::clone(shared)
    }

    /// Nothing is dropped at the end of a test program, however it ends: a process of its own waits for that.
    fn end_with_this_program(&self) {
        static WAITING: OnceLock<Child> = OnceLock::new();
        let script = r#"while kill -0 "$1" 2>/dev/null; do sleep 0.2; done; exec "$0/apiserver-down.sh""#;
        let waiting = Command::new("setsid")
            .args(["bash", "-c", script, SCRIPTS])
            .arg(std::process::id().to_string())
            .env("RUN", &self.run)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash can be run");
        WAITING.set(waiting).ok();
    }

    /// Applies the definition and waits until it is served. Returns what kubectl said.
    pub(crate) fn apply_definition(&self) -> String {
        let said = self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", DEFINITION], None);
        assert!(said.ok, "{}", said.text);
        self.wait_for_definition();
        said.text
    }

    /// Waits until the definition is served.
    pub(crate) fn wait_for_definition(&self) {
        let wait = [
            "wait",
            "--for=condition=Established",
            "--timeout=20s",
            "crd/mysqlclusters.ham4db.io",
        ];
        let deadline = Instant::now() + super::leader::DEADLINE;
        loop {
            let waited = self.kubectl(&wait, None);
            if waited.ok {
                return;
            }
            // It does not wait for conditions to appear: without any it gives up at once.
            assert!(Instant::now() < deadline, "{}", waited.text);
        }
    }

    /// Runs kubectl; a document may go in at standard input.
    pub(crate) fn kubectl(&self, arguments: &[&str], document: Option<&Value>) -> Said {
        let mut command = Command::new(find_tool("kubectl").expect("kubectl is set up"));
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        if let Some(document) = document {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let file = self.run.join(format!("document-{number}.json"));
            std::fs::write(&file, document.to_string()).unwrap();
            command.arg("-f").arg(file);
        }
        let output = command.output().expect("kubectl can be run");
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Said {
            ok: output.status.success(),
            text,
        }
    }

    /// Applies the Role that stands below the first line of a message.
    pub(crate) fn apply_grant(&self, message: &str) {
        let (_, manifest) = message.split_once('\n').expect("a Role is below the first line");
        self.apply_text(manifest);
    }

    /// Applies objects as they are written.
    pub(crate) fn apply_text(&self, manifest: &str) {
        let file = self
            .run
            .join(format!("manifest-{}.yaml", NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::write(&file, manifest).unwrap();
        let said = self.kubectl(&["apply", "--server-side", "-f", file.to_str().unwrap()], None);
        assert!(said.ok, "{}\n{manifest}", said.text);
    }

    /// A client as the administrator.
    pub(crate) async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .unwrap();
        client(config).unwrap()
    }

    /// A client with a token, as a service account.
    pub(crate) async fn client_of(&self, token: &str) -> Client {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).unwrap();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .unwrap();
        config.auth_info = serde_json::from_value(json!({"token": token})).unwrap();
        client(config).unwrap()
    }

    /// The file with which a client is the administrator.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A file with which a client has the account of a token.
    pub(crate) fn kubeconfig_of(&self, token: &str) -> PathBuf {
        let text = std::fs::read_to_string(&self.kubeconfig).unwrap();
        let mut config: Value = serde_yaml::from_str(&text).unwrap();
        config["users"][0]["user"] = json!({"token": token});
        let file = self
            .run
            .join(format!("kubeconfig-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::write(&file, config.to_string()).unwrap();
        file
    }

    /// Ends kube-apiserver with SIGKILL and leaves etcd.
    pub(crate) fn stop_api_server(&self) {
        let pid = std::fs::read_to_string(self.run.join("kube-apiserver.pid")).unwrap();
        let words = std::fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).unwrap();
        let words: Vec<String> = words.split_terminator('\0').map(str::to_owned).collect();
        let port = words.iter().skip_while(|word| *word != "--secure-port").nth(1);
        let port: u16 = port.expect("it has a port").parse().unwrap();
        *self.stopped.lock().unwrap() = Some(words);
        assert!(
            Command::new("kill")
                .args(["-9", pid.trim()])
                .status()
                .unwrap()
                .success()
        );
        // The port is free when the last thread of the process has ended, which is later than the signal.
        let deadline = Instant::now() + super::leader::DEADLINE;
        while TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < deadline, "kube-apiserver outlives SIGKILL");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts kube-apiserver again as it was, and waits until it is ready.
    pub(crate) fn start_api_server(&self) {
        let words = self.stopped.lock().unwrap().take().expect("it was stopped");
        let script = r#". "$0/env.sh"; start kube-apiserver "$@"; wait_for 60 kubectl --kubeconfig "$KUBECONFIG" get --raw /readyz"#;
        let status = Command::new("bash")
            .args(["-c", script, SCRIPTS])
            .args(words)
            .env("RUN", &self.run)
            .env("KUBECONFIG", &self.kubeconfig)
            .status()
            .expect("bash can be run");
        let log = std::fs::read_to_string(self.run.join("kube-apiserver.log")).unwrap_or_default();
        assert!(status.success(), "kube-apiserver did not become ready again: {log}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let down = Command::new(format!("{SCRIPTS}/apiserver-down.sh"))
            .env("RUN", &self.run)
            .status();
        assert!(
            down.is_ok_and(|status| status.success()) || std::thread::panicking(),
            "apiserver-down.sh failed"
        );
    }
}

/// What kubectl said, and whether it succeeded.
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) text: String,
}

/// A namespace of its own for a test.
pub(crate) async fn namespace(client: &Client) -> String {
    let name = format!("test-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let metadata = ObjectMeta {
        name: Some(name.clone()),
        ..ObjectMeta::default()
    };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .create(
            &PostParams::default(),
            &Namespace {
                metadata,
                ..Namespace::default()
            },
        )
        .await
        .unwrap();
    name
}

/// A document with one seed, with `spec` merged over it.
pub(crate) fn document(namespace: &str, name: &str, spec: &Value) -> Value {
    let mut document = json!({
        "apiVersion": "ham4db.io/v1alpha1",
        "kind": "MySQLCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"seeds": [{"host": "192.0.2.1", "port": 3306}], "credentialsSecretRef": {"name": name}},
    });
    for (field, value) in spec.as_object().unwrap() {
        document["spec"][field] = value.clone();
    }
    document
}

pub(crate) async fn create(client: &Client, namespace: &str, name: &str, spec: &Value) -> Api<MySQLCluster> {
    let api: Api<MySQLCluster> = Api::namespaced(client.clone(), namespace);
    let typed = serde_json::from_value(document(namespace, name, spec)).unwrap();
    api.create(&PostParams::default(), &typed).await.unwrap();
    api
}

pub(crate) async fn create_secret(client: &Client, namespace: &str, name: &str, password: &str) -> Api<Secret> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = json!({"metadata": {"name": name}, "stringData": {"user": "ham4db", "password": password}});
    api.create(&PostParams::default(), &serde_json::from_value(secret).unwrap())
        .await
        .unwrap();
    api
}

/// Waits for a document to be as wanted.
pub(crate) async fn until(
    api: &Api<MySQLCluster>,
    name: &str,
    what: &str,
    wanted: impl Fn(&MySQLCluster) -> bool,
) -> MySQLCluster {
    let deadline = tokio::time::Instant::now() + super::leader::DEADLINE;
    loop {
        let document = api.get(name).await.unwrap();
        if wanted(&document) {
            return document;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}: {document:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Status and reason of a condition.
pub(crate) fn condition(document: &MySQLCluster, kind: &str) -> Option<(String, String)> {
    let status = document.status.as_ref()?;
    let condition = status.conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((condition.status.clone(), condition.reason.clone()))
}

/// The history of released definitions.
pub(crate) fn history() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/history")
}
