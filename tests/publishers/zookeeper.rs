//! A real ZooKeeper.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ham4db::adapter::publishers::{PairOptions, TlsFiles, ZooKeeperOptions, ZooKeeperPublisher};
use ham4db::app::ports::publisher::{PrimaryPublisher, PublicationChange};
use ham4db::domain::declared::PublishError;
use ham4db::domain::published_primary::PublishedPrimaries;

use super::certificates::Certificates;
use super::contract::{self, Store, publication};
use super::kit::ports::PortLease;
use super::kit::process::{Launch, Process};
use super::kit::run::{cache, hand_over};
use super::kit::wait::until;

/// A running ZooKeeper; a client of its own reads and changes it.
struct ZooKeeper {
    client: u16,
    secure: u16,
    root: &'static str,
    _ports: [PortLease; 2],
    process: Process,
    _folder: tempfile::TempDir,
}

impl ZooKeeper {
    async fn start(tls: Option<&Certificates>) -> Self {
        let folder = tempfile::Builder::new().prefix("zookeeper").tempdir().unwrap();
        hand_over(folder.path()).unwrap();
        let ports = [PortLease::take().unwrap(), PortLease::take().unwrap()];
        let (client, secure) = (ports[0].port(), ports[1].port());
        let mut lines = vec![
            format!("dataDir={}", folder.path().join("data").display()),
            format!("clientPort={client}"),
            "clientPortAddress=127.0.0.1".to_owned(),
            "admin.enableServer=false".to_owned(),
            "tickTime=2000".to_owned(),
            // Nothing has to survive a test.
            "forceSync=no".to_owned(),
        ];
        if let Some(certificates) = tls {
            let (store, password) = certificates.key_store();
            let copy = folder.path().join("key.p12");
            std::fs::copy(store, &copy).unwrap();
            hand_over(&copy).unwrap();
            lines.extend([
                format!("secureClientPort={secure}"),
                "secureClientPortAddress=127.0.0.1".to_owned(),
                format!("ssl.keyStore.location={}", copy.display()),
                format!("ssl.keyStore.password={password}"),
                "ssl.keyStore.type=PKCS12".to_owned(),
                "ssl.clientAuth=none".to_owned(),
            ]);
        }
        let configuration = folder.path().join("zoo.cfg");
        std::fs::write(&configuration, lines.join("\n")).unwrap();
        hand_over(&configuration).unwrap();
        let process = Process::spawn(&Launch {
            name: "zookeeper".to_owned(),
            program: program(),
            arguments: vec![configuration.display().to_string()],
            environment: Vec::new(),
            log: folder.path().join("log"),
            namespace: None,
        })
        .unwrap();
        let zookeeper = Self {
            client,
            secure,
            root: "",
            _ports: ports,
            process,
            _folder: folder,
        };
        until(Duration::from_mins(1), "ZooKeeper answers", async || {
            Ok(PlainClient::connect(client).and_then(|mut client| client.children("/")))
        })
        .await
        .unwrap();
        zookeeper
    }

    fn options(&self) -> ZooKeeperOptions {
        ZooKeeperOptions {
            servers: vec![format!("localhost:{}", self.client)],
            root: self.root.to_owned(),
            digest: None,
            tls: None,
            pairs: PairOptions::default(),
        }
    }

    fn client(&self) -> PlainClient {
        PlainClient::connect(self.client).unwrap()
    }
}

fn program() -> PathBuf {
    let program = cache().unwrap().join("zookeeper/run");
    assert!(program.is_file(), "run tests/setup/ensure.sh zookeeper");
    program
}

fn publisher(options: ZooKeeperOptions) -> Arc<dyn PrimaryPublisher> {
    Arc::new(ZooKeeperPublisher::new(options).unwrap())
}

/// The protocol as far as a test needs it, apart from the client under test.
struct PlainClient {
    socket: TcpStream,
    xid: i32,
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(i32::try_from(text.len()).unwrap().to_be_bytes());
    bytes.extend(text.bytes());
}

fn number(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl PlainClient {
    fn connect(port: u16) -> Option<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut client = Self { socket, xid: 0 };
        let mut request = vec![0; 12];
        request.extend(10_000_i32.to_be_bytes());
        request.extend([0; 8]);
        request.extend(16_i32.to_be_bytes());
        request.extend([0; 16]);
        client.send(&request)?;
        client.receive()?;
        Some(client)
    }

    fn send(&mut self, request: &[u8]) -> Option<()> {
        self.socket
            .write_all(&i32::try_from(request.len()).unwrap().to_be_bytes())
            .ok()?;
        self.socket.write_all(request).ok()
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        self.socket.read_exact(&mut length).ok()?;
        let mut body = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        self.socket.read_exact(&mut body).ok()?;
        Some(body)
    }

    /// The answer without its header, and the error of the server.
    fn call(&mut self, operation: i32, rest: &[u8]) -> Option<(Vec<u8>, i32)> {
        self.xid += 1;
        let mut request = self.xid.to_be_bytes().to_vec();
        request.extend(operation.to_be_bytes());
        request.extend(rest);
        self.send(&request)?;
        let answer = self.receive()?;
        Some((answer[16..].to_vec(), number(&answer, 12)))
    }

    fn children(&mut self, path: &str) -> Option<Vec<String>> {
        let mut request = Vec::new();
        text(&mut request, path);
        request.push(0);
        let (answer, error) = self.call(8, &request)?;
        if error != 0 {
            return Some(Vec::new());
        }
        let mut at = 4;
        let mut names = Vec::new();
        for _ in 0..number(&answer, 0) {
            let length = usize::try_from(number(&answer, at)).unwrap();
            names.push(String::from_utf8(answer[at + 4..at + 4 + length].to_vec()).unwrap());
            at += 4 + length;
        }
        Some(names)
    }

    fn get(&mut self, path: &str) -> Option<String> {
        let mut request = Vec::new();
        text(&mut request, path);
        request.push(0);
        let (answer, error) = self.call(4, &request).unwrap();
        if error != 0 {
            return None;
        }
        let length = usize::try_from(number(&answer, 0)).unwrap_or(0);
        Some(String::from_utf8(answer[4..4 + length].to_vec()).unwrap())
    }

    fn set(&mut self, path: &str, value: &str) -> i32 {
        let mut request = Vec::new();
        text(&mut request, path);
        text(&mut request, value);
        request.extend((-1_i32).to_be_bytes());
        self.call(5, &request).unwrap().1
    }

    fn create(&mut self, path: &str, value: &str) -> i32 {
        let mut request = Vec::new();
        text(&mut request, path);
        text(&mut request, value);
        request.extend(1_i32.to_be_bytes());
        request.extend(31_i32.to_be_bytes());
        text(&mut request, "world");
        text(&mut request, "anyone");
        request.extend(0_i32.to_be_bytes());
        self.call(1, &request).unwrap().1
    }

    fn delete(&mut self, path: &str) {
        let mut request = Vec::new();
        text(&mut request, path);
        request.extend((-1_i32).to_be_bytes());
        assert_eq!(self.call(2, &request).unwrap().1, 0);
    }

    fn collect(&mut self, path: &str, found: &mut BTreeMap<String, String>) {
        for name in self.children(path).unwrap() {
            let child = format!("{}/{name}", path.trim_end_matches('/'));
            let value = self.get(&child).unwrap();
            found.insert(child.clone(), value);
            self.collect(&child, found);
        }
    }
}

#[async_trait]
impl Store for ZooKeeper {
    /// All nodes but the empty ones that have others below them: they stand for no key.
    async fn all(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let root = if self.root.is_empty() { "/" } else { self.root };
        self.client().collect(root, &mut found);
        found.retain(|path, _| !path.starts_with("/zookeeper"));
        let paths: Vec<String> = found.keys().cloned().collect();
        let has_children = |path: &str| paths.iter().any(|other| other.starts_with(&format!("{path}/")));
        let keys = found
            .into_iter()
            .filter(|(path, value)| !(value.is_empty() && has_children(path)));
        keys.map(|(path, value)| (path[self.root.len() + 1..].to_owned(), value))
            .collect()
    }

    async fn put(&self, key: &str, value: &str) {
        let mut client = self.client();
        let path = format!("{}/{key}", self.root);
        for (at, _) in path.match_indices('/').skip(1) {
            client.create(&path[..at], "");
        }
        if client.create(&path, value) != 0 {
            assert_eq!(client.set(&path, value), 0, "{path}");
        }
    }

    async fn delete(&self, key: &str) {
        self.client().delete(&format!("{}/{key}", self.root));
    }
}

#[tokio::test]
async fn the_contract_holds() {
    let zookeeper = ZooKeeper::start(None).await;
    contract::holds(&publisher(zookeeper.options()), &zookeeper).await;
}

#[tokio::test]
async fn the_contract_holds_below_a_path() {
    let zookeeper = ZooKeeper {
        root: "/databases/east",
        ..ZooKeeper::start(None).await
    };
    contract::holds(&publisher(zookeeper.options()), &zookeeper).await;
}

#[tokio::test]
async fn the_next_server_is_asked_and_a_server_that_is_gone_is_an_error() {
    let mut zookeeper = ZooKeeper::start(None).await;
    let mut options = zookeeper.options();
    options.servers.insert(0, "127.0.0.1:1".to_owned());
    let publisher = publisher(options);
    assert_eq!(
        publisher.publish(&publication("db1", 1)).await,
        Ok(PublicationChange::Written)
    );
    zookeeper.process.kill().unwrap();
    let lost = publisher.publish(&publication("db2", 2)).await;
    assert!(matches!(lost, Err(PublishError::Unanswered(_))), "{lost:?}");
}

#[tokio::test]
async fn an_account_owns_the_nodes_that_it_creates() {
    let zookeeper = ZooKeeper::start(None).await;
    let with = |digest: &str| ZooKeeperOptions {
        digest: Some(digest.to_owned().into()),
        ..zookeeper.options()
    };
    let owner = publisher(with("ham4db:secret"));
    assert_eq!(
        owner.publish(&publication("db1", 1)).await,
        Ok(PublicationChange::Written)
    );
    let mut stranger = zookeeper.client();
    assert_eq!(
        stranger.get("/mysql/master/shop").as_deref(),
        Some("db1:3306"),
        "everyone may read"
    );
    assert_eq!(stranger.set("/mysql/master/shop", "evil:3306"), -102);
    let other = publisher(with("other:secret")).publish(&publication("db2", 2)).await;
    assert!(matches!(other, Err(PublishError::Forbidden(_))), "{other:?}");
    assert_eq!(
        owner.publish(&publication("db2", 2)).await,
        Ok(PublicationChange::Written)
    );
}

#[tokio::test]
async fn tls_is_used_and_the_certificate_verified() {
    let certificates = Certificates::make();
    let zookeeper = ZooKeeper::start(Some(&certificates)).await;
    let secure = |ca: Option<PathBuf>| ZooKeeperOptions {
        servers: vec![format!("localhost:{}", zookeeper.secure)],
        tls: Some(TlsFiles { ca, client: None }),
        ..zookeeper.options()
    };
    let unknown = publisher(secure(None)).publish(&publication("db1", 1)).await;
    assert!(matches!(unknown, Err(PublishError::Unanswered(_))), "{unknown:?}");
    assert!(zookeeper.all().await.is_empty());
    let trusted = publisher(secure(Some(certificates.authority())));
    // The first TLS of a server that has just started may take longer than an attempt.
    until(
        Duration::from_secs(30),
        "the pairs to be written",
        async || match trusted.publish(&publication("db1", 1)).await {
            Ok(_) => Ok(Some(())),
            Err(why) => anyhow::bail!("{why}"),
        },
    )
    .await
    .unwrap();
    assert_eq!(zookeeper.all().await["mysql/master/shop"], "db1:3306");
}

#[tokio::test]
async fn what_others_have_below_a_former_name_stays() {
    let zookeeper = ZooKeeper::start(None).await;
    let publisher = publisher(zookeeper.options());
    publisher.publish(&publication("db1", 1)).await.unwrap();
    publisher.withdraw(&publication("db1", 2)).await.unwrap();
    zookeeper.put("mysql/master/shop/note", "theirs").await;
    let nothing = PublishedPrimaries::default();
    assert_eq!(
        publisher.remove_leftovers("group-1", &nothing).await,
        Ok(vec!["shop".to_owned()])
    );
    let left = zookeeper.all().await;
    assert_eq!(
        left.into_iter().collect::<Vec<_>>(),
        [("mysql/master/shop/note".to_owned(), "theirs".to_owned())]
    );
    zookeeper.delete("mysql/master/shop/note").await;
}
