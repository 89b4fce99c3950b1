//! Servers that replicate from each other, with the accounts that members, replicas, writers and the sampler use.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use futures::{StreamExt as _, TryStreamExt as _};

use super::netns::Net;
use super::replication::Flavour;
use super::run::Run;
use super::server::{Server, ServerOptions, ensure_servers};
use super::sql::{Address, Credentials};
use super::wait::until;

/// How long replication may take to be set up.
const SET_UP: Duration = Duration::from_mins(1);
/// How many writers have an account.
const WRITERS: usize = 8;

/// What to build.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) flavour: Flavour,
    /// For each replica in turn (the second server, the third, ...) the place of its source among the servers; the first is 0.
    pub(crate) sources: Vec<usize>,
    /// Commits wait for one replica (`AFTER_SYNC`).
    pub(crate) semi_sync: bool,
    /// Every server has a door for administrators that is open when it is full.
    pub(crate) reserved: bool,
    /// The servers show what happens inside them.
    pub(crate) performance_schema: bool,
    /// More options of the first server.
    pub(crate) first: Vec<String>,
}

impl Shape {
    /// A primary with so many replicas, all with semi-sync.
    pub(crate) fn star(flavour: Flavour, replicas: usize) -> Self {
        Self {
            flavour,
            sources: vec![0; replicas],
            semi_sync: true,
            reserved: false,
            performance_schema: false,
            first: Vec::new(),
        }
    }

    /// The same without semi-sync.
    pub(crate) fn asynchronous(flavour: Flavour, replicas: usize) -> Self {
        Self {
            semi_sync: false,
            ..Self::star(flavour, replicas)
        }
    }

    /// Each replicates from the one before.
    pub(crate) fn chain(flavour: Flavour, replicas: usize) -> Self {
        Self {
            sources: (0..replicas).collect(),
            ..Self::star(flavour, replicas)
        }
    }
}

/// Who may do what. The same on every server, as accounts replicate.
#[derive(Clone, Debug)]
pub(crate) struct Accounts {
    /// For members.
    pub(crate) topology: Credentials,
    /// For replicas.
    pub(crate) replication: Credentials,
    /// Unprivileged.
    pub(crate) writers: Vec<Credentials>,
    /// Unprivileged.
    pub(crate) sampler: Credentials,
}

impl Accounts {
    pub(super) fn new(run: &Run) -> Self {
        let account = |user: String| Credentials {
            user,
            password: run.secret(),
        };
        Self {
            topology: account("ham4db".into()),
            replication: account("replication".into()),
            writers: (1..=WRITERS).map(|number| account(format!("writer{number}"))).collect(),
            sampler: account("sampler".into()),
        }
    }

    /// The statements that create them, with the tables of writers and sampler.
    pub(crate) fn create(&self, flavour: Flavour) -> String {
        let mut sql = flavour.create_topology_user(&self.topology);
        sql += &Flavour::create_replication_user(&self.replication);
        for account in self.writers.iter().chain([&self.sampler]) {
            sql += &Flavour::create_writer(account);
        }
        sql + &Flavour::create_tables()
    }
}

/// The servers: the first is the primary at the start.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) flavour: Flavour,
    pub(crate) servers: Vec<Server>,
    pub(crate) accounts: Accounts,
}

impl Topology {
    /// On 127.0.0.1.
    pub(crate) async fn start(run: &Arc<Run>, shape: &Shape) -> Result<Self> {
        Self::start_on(run, shape, None).await
    }

    /// Each server in a network namespace of its own.
    pub(crate) async fn start_in(run: &Arc<Run>, shape: &Shape, net: &Net) -> Result<Self> {
        Self::start_on(run, shape, Some(net)).await
    }

    /// Several topologies of one shape, all with the same accounts, on 127.0.0.1. Started a few at a time: a server that starts takes
    /// more of the machine than one that runs.
    pub(crate) async fn start_fleet(run: &Arc<Run>, shape: &Shape, count: usize) -> Result<Vec<Self>> {
        let accounts = Accounts::new(run);
        let size = shape.sources.len() + 1;
        let starting = (0..count).map(|place| {
            let (accounts, first) = (accounts.clone(), place * size);
            async move { Self::start_numbered(run, shape, None, first, accounts).await }
        });
        futures::stream::iter(starting).buffered(2).try_collect().await
    }

    async fn start_on(run: &Arc<Run>, shape: &Shape, net: Option<&Net>) -> Result<Self> {
        Box::pin(Self::start_numbered(run, shape, net, 0, Accounts::new(run))).await
    }

    /// The servers are called `db` and a number, from the one after `before` on.
    async fn start_numbered(
        run: &Arc<Run>,
        shape: &Shape,
        net: Option<&Net>,
        before: usize,
        accounts: Accounts,
    ) -> Result<Self> {
        let home = ensure_servers(shape.flavour)?;
        let before = u32::try_from(before).context("number the servers")?;
        let count = u32::try_from(shape.sources.len() + 1).context("count the servers")?;
        let options = |number: u32| -> Result<ServerOptions> {
            Ok(ServerOptions {
                flavour: shape.flavour,
                number,
                semi_sync: shape.semi_sync,
                boots_read_only: number > before + 1,
                performance_schema: shape.performance_schema,
                host: net.map(|net| net.host(&format!("db{number}"))).transpose()?,
                reserved: shape.reserved,
                more: if number == before + 1 {
                    shape.first.clone()
                } else {
                    Vec::new()
                },
            })
        };
        let starting: Vec<_> = (before + 1..=before + count)
            .map(|number| Ok(Server::start(Arc::clone(run), home.clone(), options(number)?)))
            .collect::<Result<_>>()?;
        let topology = Self {
            flavour: shape.flavour,
            servers: try_join_all(starting).await?,
            accounts,
        };
        topology.replicate(shape).await.context("set up replication")?;
        Ok(topology)
    }

    async fn replicate(&self, shape: &Shape) -> Result<()> {
        let primary = self.server(0)?;
        primary.run(&self.accounts.create(self.flavour)).await?;
        let accounts = primary.executed().await?;
        let attaching = shape.sources.iter().enumerate();
        try_join_all(attaching.map(|(index, source)| self.attach(index + 1, *source, &accounts))).await?;
        if shape.semi_sync {
            let direct = shape.sources.iter().filter(|source| **source == 0).count();
            let mut session = primary.session().await?;
            until(SET_UP, "the replicas to acknowledge", async || {
                let connected = self.flavour.semi_sync_replicas(&mut session).await?;
                Ok((usize::try_from(connected)? == direct).then_some(()))
            })
            .await?;
            session.run(&self.flavour.wait_without_replica(true)).await?;
            session.close().await;
        }
        self.caught_up(0, SET_UP).await
    }

    /// Lets a server replicate from another once that has the accounts: in a chain they have to come down first.
    async fn attach(&self, replica: usize, source: usize, accounts: &str) -> Result<()> {
        let (replica, source) = (self.server(replica)?, self.server(source)?);
        source.has_executed(accounts, SET_UP).await?;
        replica
            .run(&self.flavour.attach(source.address(), &self.accounts.replication))
            .await?;
        replica.follows(source.address(), SET_UP).await
    }

    /// The server at a place, from 0.
    pub(crate) fn server(&self, index: usize) -> Result<&Server> {
        self.servers
            .get(index)
            .with_context(|| format!("the topology has no server {index}"))
    }

    /// The same, to be started or killed.
    pub(crate) fn server_mut(&mut self, index: usize) -> Result<&mut Server> {
        self.servers
            .get_mut(index)
            .with_context(|| format!("the topology has no server {index}"))
    }

    /// Where all servers are reached.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.servers.iter().map(|server| server.address().clone()).collect()
    }

    /// The place of the server with an address.
    pub(crate) fn index_of(&self, address: &Address) -> Result<usize> {
        self.servers
            .iter()
            .position(|server| server.address() == address)
            .with_context(|| format!("{address} is none of the servers"))
    }

    /// Waits until every running server has executed what one of them has.
    pub(crate) async fn caught_up(&self, index: usize, limit: Duration) -> Result<()> {
        let wanted = self.server(index)?.executed().await?;
        for server in self.servers.iter().filter(|server| server.is_running()) {
            server.has_executed(&wanted, limit).await?;
        }
        Ok(())
    }

    /// Waits until exactly one of the running servers says that it is writable, and returns its place.
    pub(crate) async fn only_writable(&self, limit: Duration) -> Result<usize> {
        until(limit, "one writable server", async || {
            let mut writable = Vec::new();
            for (index, server) in self
                .servers
                .iter()
                .enumerate()
                .filter(|(_, server)| server.is_running())
            {
                if !server.is_read_only().await? {
                    writable.push(index);
                }
            }
            Ok(if let [only] = writable.as_slice() {
                Some(*only)
            } else {
                None
            })
        })
        .await
    }
}
