//! A group of MySQL servers by Group Replication, and replicas below its members.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;

use super::ports::PortLease;
use super::replication::Flavour;
use super::run::Run;
use super::server::{Server, ServerOptions, ensure_servers};
use super::topology::{Accounts, Topology};
use super::wait::until;

/// The group's name, a uuid: the one under which its transactions are known.
const NAME: &str = "aaaaaaaa-0000-4000-8000-000000000001";
/// How long a member may take to join: it waits for the group's word, and then catches up.
const JOIN: Duration = Duration::from_mins(2);

/// What to build.
#[derive(Clone, Debug)]
pub(crate) struct GroupShape {
    /// How many members; the first founds the group.
    pub(crate) members: usize,
    /// One of them takes writes, chosen by the group; otherwise all do.
    pub(crate) single_primary: bool,
    /// For each replica outside the group the place of the member that it replicates from.
    pub(crate) replicas: Vec<usize>,
}

/// The servers, members first, and the ports over which the members talk, held for as long as they do.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) topology: Topology,
    pub(crate) ports: Vec<PortLease>,
}

impl Group {
    /// On 127.0.0.1. Every server logs all statements that reach it, see [`statements_of`].
    pub(crate) async fn start(run: &Arc<Run>, shape: &GroupShape) -> Result<Self> {
        let flavour = Flavour::MySql;
        let home = ensure_servers(flavour)?;
        let ports: Vec<PortLease> = (0..shape.members).map(|_| PortLease::take()).collect::<Result<_>>()?;
        let seeds: Vec<String> = ports
            .iter()
            .map(|lease| format!("127.0.0.1:{}", lease.port()))
            .collect();
        let options = |place: usize| -> Result<ServerOptions> {
            let mut more = vec![
                "--general-log=ON".to_owned(),
                "--general-log-file=general.log".to_owned(),
            ];
            if let Some(own) = seeds.get(place) {
                more.extend(member_options(own, &seeds, shape.single_primary));
            }
            Ok(ServerOptions {
                flavour,
                number: u32::try_from(place + 1).context("number the servers")?,
                semi_sync: false,
                boots_read_only: place >= shape.members,
                // The group tells who its members are there and nowhere else.
                performance_schema: place < shape.members,
                host: None,
                reserved: false,
                more,
            })
        };
        let count = shape.members + shape.replicas.len();
        let starting: Vec<_> = (0..count)
            .map(|place| Ok(Server::start(Arc::clone(run), home.clone(), options(place)?)))
            .collect::<Result<_>>()?;
        let topology = Topology {
            flavour,
            servers: try_join_all(starting).await?,
            accounts: Accounts::new(run),
        };
        let group = Self { topology, ports };
        group.found(shape).await.context("found the group")?;
        Ok(group)
    }

    async fn found(&self, shape: &GroupShape) -> Result<()> {
        let topology = &self.topology;
        let founder = topology.server(0)?;
        let (user, password) = (
            &topology.accounts.replication.user,
            &topology.accounts.replication.password,
        );
        for place in 0..shape.members {
            let server = topology.server(place)?;
            server
                .run(&format!(
                    "CHANGE REPLICATION SOURCE TO SOURCE_USER='{user}', SOURCE_PASSWORD='{password}' \
                     FOR CHANNEL 'group_replication_recovery'"
                ))
                .await?;
            let mut session = server.session().await?;
            if place == 0 {
                session.run("SET GLOBAL group_replication_bootstrap_group = ON").await?;
            }
            session.run_within("START GROUP_REPLICATION", JOIN).await?;
            if place == 0 {
                session
                    .run("SET GLOBAL group_replication_bootstrap_group = OFF")
                    .await?;
                writable(founder).await?;
                session.run(&topology.accounts.create(topology.flavour)).await?;
                session
                    .run(&format!(
                        "GRANT SELECT ON performance_schema.* TO '{}'@'%'",
                        topology.accounts.topology.user
                    ))
                    .await?;
            }
            session.close().await;
            online(founder, place + 1).await?;
        }
        for (place, source) in (shape.members..).zip(&shape.replicas) {
            let (replica, source) = (topology.server(place)?, topology.server(*source)?);
            replica
                .run(
                    &topology
                        .flavour
                        .attach(source.address(), &topology.accounts.replication),
                )
                .await?;
            replica.follows(source.address(), JOIN).await?;
        }
        topology.caught_up(0, JOIN).await
    }
}

fn member_options(own: &str, seeds: &[String], single_primary: bool) -> Vec<String> {
    let (single, everywhere) = if single_primary { ("ON", "OFF") } else { ("OFF", "ON") };
    vec![
        "--plugin-load-add=group_replication.so".to_owned(),
        format!("--loose-group-replication-group-name={NAME}"),
        format!("--loose-group-replication-local-address={own}"),
        format!("--loose-group-replication-group-seeds={}", seeds.join(",")),
        format!("--loose-group-replication-single-primary-mode={single}"),
        format!("--loose-group-replication-enforce-update-everywhere-checks={everywhere}"),
        "--loose-group-replication-start-on-boot=OFF".to_owned(),
        "--loose-group-replication-recovery-get-public-key=ON".to_owned(),
        // Who is suspected is put out at once, so that the others choose within seconds.
        "--loose-group-replication-member-expel-timeout=0".to_owned(),
        "--loose-group-replication-message-cache-size=134217728".to_owned(),
    ]
}

/// Waits until a member says that so many are online.
pub(crate) async fn online(server: &Server, wanted: usize) -> Result<()> {
    until(
        JOIN,
        &format!("{} to see {wanted} members online", server.name()),
        async || {
            let members = server
                .value(
                    "SELECT GROUP_CONCAT(CONCAT_WS(' ', MEMBER_PORT, MEMBER_STATE) ORDER BY MEMBER_PORT) \
                 FROM performance_schema.replication_group_members",
                )
                .await?;
            let count = members.matches("ONLINE").count();
            ensure!(count == wanted, "it sees {members}");
            Ok(Some(()))
        },
    )
    .await
}

async fn writable(server: &Server) -> Result<()> {
    until(JOIN, &format!("{} to be writable", server.name()), async || {
        Ok((!server.is_read_only().await?).then_some(()))
    })
    .await
}

/// The statements that an account has sent to a server, from its log of all of them.
pub(crate) fn statements_of(server: &Server, user: &str) -> Result<Vec<String>> {
    let log = server.data_file("general.log")?;
    let mut sessions = std::collections::BTreeSet::new();
    let mut statements = Vec::new();
    // `TIME \t ID COMMAND \t ARGUMENT`, and the lines of a long statement below it.
    for line in log.lines() {
        let mut fields = line.splitn(3, '\t');
        let (Some(_), Some(session), Some(argument)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Some((id, command)) = session.trim().split_once(' ') else {
            continue;
        };
        match command.trim() {
            "Connect" if argument.starts_with(&format!("{user}@")) => {
                sessions.insert(id.to_owned());
            }
            "Quit" => {
                sessions.remove(id);
            }
            "Query" if sessions.contains(id) => statements.push(argument.to_owned()),
            _ => {}
        }
    }
    Ok(statements)
}
