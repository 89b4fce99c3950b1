//! Several members on one backend: one leads, changes exclude each other, and whoever lost the backend does nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use ham4db::adapter::clock::SystemClock;
use ham4db::adapter::shared::SharedMember;
use ham4db::adapter::store::{BackendAddress, BackendStore, Deployment};
use ham4db::app::ports::{Clock, Consensus as _, Health, ProposeError, Unconfirmed};
use ham4db::domain::state::{Applied, ClaimToken, Command};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::backends::{Backend, address};
use crate::server::{Server, Software};

/// The longest until a dead leader is replaced: three seconds and the rest of a fourth one by the clock of the database, and a round.
const REPLACED: Duration = Duration::from_secs(10);

/// A member in this process.
struct Running {
    member: Arc<SharedMember>,
    stop: CancellationToken,
    store: BackendStore,
}

impl Running {
    async fn on(store: BackendStore, name: &str) -> Self {
        let stop = CancellationToken::new();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let uri = format!("http://{name}:3000");
        let kept = Arc::new(store.clone());
        let member = SharedMember::start(name, &uri, "", kept, clock, None, stop.clone()).await;
        let member = member.unwrap();
        Self { member, stop, store }
    }

    fn leads(&self) -> bool {
        self.member.leadership().borrow().is_leader
    }

    /// It ends as a process that is killed: nothing is given up.
    async fn die(&self) {
        self.stop.cancel();
        self.store.close().await;
    }
}

/// Three members on a backend.
async fn three(backend: &Backend) -> Vec<Running> {
    let mut members = Vec::new();
    for name in ["a", "b", "c"] {
        let store = backend.again(Deployment::Skip).await.unwrap();
        members.push(Running::on(store, name).await);
    }
    members
}

/// Waits until one of the members leads and all others know it.
async fn leader_among(members: &[&Running]) -> usize {
    let begun = Instant::now();
    loop {
        let leaders: Vec<usize> = (0..members.len()).filter(|at| members[*at].leads()).collect();
        let known = |at: usize| {
            let name = members[at].member.me().name;
            let knows = |other: &&Running| {
                let leadership = other.member.leadership().borrow().clone();
                leadership.leader.is_some_and(|leader| leader.name == name)
            };
            members.iter().all(knows)
        };
        match leaders.as_slice() {
            [leader] if known(*leader) => return *leader,
            _ => assert!(begun.elapsed() < REPLACED, "{leaders:?} lead"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn command(body: Value) -> Command {
    serde_json::from_value(body).unwrap()
}

fn cluster() -> Command {
    command(json!({
        "op": "describeCluster", "id": "c1", "instances": ["db1:3306", "db2:3306"],
        "primary": ["db1:3306", {"serverUuid": "00000001-0000-0000-0000-000000000000"}],
        "process": null, "alias": "", "absorbs": [], "document": null,
    }))
}

/// The claim of a recovery of this kind by a member.
fn claim(uid: &str, kind: &str, holder: u64) -> Command {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store/commands.jsonl")).unwrap();
    let line = text.lines().find(|line| line.contains(r#""op":"claim""#)).unwrap();
    let proposal: Value = serde_json::from_str(line).unwrap();
    let mut body = proposal["command"].clone();
    body["claim"]["uid"] = json!(uid);
    body["claim"]["holder"] = json!(holder);
    body["claim"]["plan"]["kind"] = json!(kind);
    body["claim"]["plan"]["victim"] = json!("db1:3306");
    body["claim"]["plan"]["victimIdentity"] = json!({"serverUuid": "00000001-0000-0000-0000-000000000000"});
    command(body)
}

async fn end(running: &Running, token: &ClaimToken) {
    let ending = command(json!({"op": "end", "token": token, "ending": {
        "successful": false, "successor": null, "quarantine": null, "lostReplicas": [], "lost": null, "errors": ["a test"], "lines": [],
        "hooks": [], "owesOpening": false,
    }}));
    // It may have been ended in favour of another one.
    running.member.propose(ending).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_members_leads_and_is_replaced_when_it_dies_or_hands_over() {
    for backend in Backend::all("shared_leader").await {
        let members = three(&backend).await;
        let all: Vec<&Running> = members.iter().collect();
        let first = leader_among(&all).await;
        assert!(all[first].member.barrier().await.is_ok(), "{}", backend.name);
        // The first one to register itself saw no other.
        let begun = Instant::now();
        while all[first].member.peers().len() < 3 {
            assert!(
                begun.elapsed() < REPLACED,
                "{}: {:?}",
                backend.name,
                all[first].member.peers()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let term = all[first].member.leadership().borrow().term;

        let handed = Instant::now();
        all[first].member.hand_over(Duration::from_secs(5)).await;
        let second = leader_among(&all).await;
        assert!(
            second != first && handed.elapsed() < Duration::from_secs(2),
            "{}",
            backend.name
        );
        assert!(matches!(all[first].member.barrier().await, Err(Unconfirmed::Stale(_))));

        let killed = Instant::now();
        all[second].die().await;
        let rest: Vec<&Running> = (0..3).filter(|at| *at != second).map(|at| all[at]).collect();
        let third = leader_among(&rest).await;
        println!(
            "{}: another member led after {:.1} s",
            backend.name,
            killed.elapsed().as_secs_f64()
        );
        assert!(rest[third].member.barrier().await.is_ok());
        assert_eq!(rest[third].member.leadership().borrow().term, term + 2);
        let rows = backend.rows("SELECT anchor, hostname FROM active_node").await;
        assert_eq!(rows, [["1".to_owned(), rest[third].member.me().name]]);
        let known = backend.rows("SELECT hostname FROM node_health ORDER BY hostname").await;
        assert_eq!(known, [["a"], ["b"], ["c"]], "{}", backend.name);
    }
}

/// A registration that was on its way when the leader gave up took the leadership back, or told the leader that it still has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hands_over_while_it_registers_itself_does_not_lead_on() {
    for backend in Backend::all("shared_hand_over").await {
        let members = three(&backend).await;
        let all: Vec<&Running> = members.iter().collect();
        let mut leader = leader_among(&all).await;
        // Registrations are half a second apart: the moments of the handovers fall into all parts of that.
        for round in 0..8 {
            tokio::time::sleep(Duration::from_millis(61 * round)).await;
            all[leader].member.hand_over(Duration::from_secs(5)).await;
            assert!(!all[leader].leads(), "{}, round {round}", backend.name);
            let next = leader_among(&all).await;
            assert_ne!(next, leader, "{}, round {round}", backend.name);
            leader = next;
        }
    }
}

/// Rounds of three commands that contradict each other, each from another member at the same moment.
async fn contradict(backend: &Backend, rounds: usize) {
    let members = three(backend).await;
    members[0].member.propose(cluster()).await.unwrap();
    let kinds = ["DeadPrimary", "Takeover", "MatchBelow"];
    let mut won = [0; 3];
    let begun = Instant::now();
    for round in 0..rounds {
        let claims = members.iter().zip(kinds).map(|(running, kind)| {
            let me = running.member.me();
            running.member.propose(claim(&format!("{round}-{kind}"), kind, me.id))
        });
        let mut tokens = Vec::new();
        for (at, outcome) in join_all(claims).await.into_iter().enumerate() {
            match outcome {
                Ok(Applied::Claimed { token }) => tokens.push((at, token)),
                Ok(Applied::Refused { .. }) => {}
                other => panic!("{}: {other:?}", backend.name),
            }
        }
        let proofs = tokens.iter().map(|(at, token)| members[*at].member.confirm(token));
        let proofs = join_all(proofs).await;
        let confirmed: Vec<&(usize, ClaimToken)> = tokens
            .iter()
            .zip(&proofs)
            .filter(|(_, proof)| proof.is_ok())
            .map(|(token, _)| token)
            .collect();
        assert_eq!(
            confirmed.len(),
            1,
            "{}, round {round}: {tokens:?} {proofs:?}",
            backend.name
        );
        for (at, _) in confirmed {
            won[*at] += 1;
        }
        for (at, token) in &tokens {
            end(&members[*at], token).await;
        }
    }
    println!(
        "{}: won {won:?} of {rounds} in {:.1} s",
        backend.name,
        begun.elapsed().as_secs_f64()
    );
    for running in &members {
        running.stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_commands_that_contradict_each_other_one_succeeds() {
    /// The state keeps the records of all rounds; a new database begins without them.
    const ROUNDS_PER_DATABASE: usize = 100;
    // A thousand take minutes: `make deployments`.
    let rounds: usize = std::env::var("HAM4DB_ROUNDS").map_or(30, |rounds| rounds.parse().unwrap());
    for _ in 0..rounds.div_ceil(ROUNDS_PER_DATABASE) {
        for backend in Backend::all("shared_claims").await {
            contradict(&backend, rounds.min(ROUNDS_PER_DATABASE)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_another_member_resumed_is_no_longer_confirmed() {
    for backend in Backend::all("shared_resumed").await {
        let members = three(&backend).await;
        let [a, b, _] = members.as_slice() else { panic!() };
        a.member.propose(cluster()).await.unwrap();
        let claimed = a.member.propose(claim("r", "DeadPrimary", a.member.me().id)).await;
        let Ok(Applied::Claimed { token }) = claimed else {
            panic!("{claimed:?}")
        };
        assert!(a.member.confirm(&token).await.is_ok());
        // Nothing is told to the first one.
        let resume =
            json!({"op": "resume", "uid": "r", "holder": b.member.me().id, "holderName": "b", "above": token.epoch});
        let resumed = b.member.propose(command(resume)).await;
        let Ok(Applied::Claimed { token: later }) = resumed else {
            panic!("{resumed:?}")
        };
        assert!(later.epoch > token.epoch);
        let refused = a.member.confirm(&token).await;
        assert!(
            matches!(refused, Err(Unconfirmed::Stale(_))),
            "{}: {refused:?}",
            backend.name
        );
        assert!(b.member.confirm(&later).await.is_ok(), "{}", backend.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_of_one_name_waits_until_the_first_one_is_gone() {
    for backend in Backend::all("shared_name").await {
        let first = Running::on(backend.again(Deployment::Skip).await.unwrap(), "a").await;
        let id = first.member.me().id;
        let second = Running::on(backend.again(Deployment::Skip).await.unwrap(), "a");
        tokio::pin!(second);
        let early = tokio::time::timeout(Duration::from_secs(2), &mut second).await;
        assert!(early.is_err(), "{}", backend.name);
        first.die().await;
        let second = tokio::time::timeout(Duration::from_secs(20), second).await.unwrap();
        assert_eq!(second.member.me().id, id, "{}: it is the same member", backend.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_start_at_the_same_moment_on_an_empty_database_all_start() {
    for software in [Software::MySql, Software::MariaDb] {
        let server = crate::backends::shared(software).await;
        for round in 0..5 {
            let database = format!("shared_start_{round}");
            server
                .run(&format!(
                    "DROP DATABASE IF EXISTS {database}; CREATE DATABASE {database}"
                ))
                .await;
            let backend = BackendAddress::MySql(address(&server, &database));
            let starting = ["a", "b", "c"].map(|name| {
                let backend = backend.clone();
                async move {
                    let store = BackendStore::open(&backend, Deployment::default()).await.unwrap();
                    Running::on(store, name).await
                }
            });
            let members = join_all(starting).await;
            let all: Vec<&Running> = members.iter().collect();
            leader_among(&all).await;
            let groups: std::collections::BTreeSet<String> = members
                .iter()
                .map(|running| running.member.state().borrow().group.as_ref().unwrap().uuid.clone())
                .collect();
            assert_eq!(groups.len(), 1, "{software:?}");
            for running in &members {
                running.die().await;
            }
        }
    }
}

/// As after the clock of the database was set back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leadership_from_the_future_is_taken() {
    for backend in Backend::all("shared_future").await {
        backend
            .run(
                "INSERT INTO active_node (anchor, hostname, token, first_seen_active, last_seen_active) \
                 VALUES (1, 'gone', 'gone', '2037-01-01 00:00:00', '2037-01-01 00:00:00'); \
                 INSERT INTO ham4db_member (name, token, id, http_uri, seen_at) VALUES ('a', 'gone', 1, '', 2114380800)",
            )
            .await;
        let running = Running::on(backend.again(Deployment::Skip).await.unwrap(), "a").await;
        leader_among(&[&running]).await;
        assert_eq!(running.member.peers().len(), 1, "{}", backend.name);
    }
}

/// Orchestrator renews its row as ham4db does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_member_leads_while_an_orchestrator_on_the_same_database_does() {
    let backend = Backend::on(Software::MySql, "shared_orchestrator").await;
    let active = "REPLACE INTO active_node (anchor, hostname, token, first_seen_active, last_seen_active) \
                  VALUES (1, 'orchestrator', 't', NOW(), NOW())";
    backend.run(active).await;
    let running = Running::on(backend.again(Deployment::Skip).await.unwrap(), "a").await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        backend.run(active).await;
        assert!(!running.leads() && running.member.leadership().borrow().leader.is_none());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    leader_among(&[&running]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_backend_hangs_steps_down_at_once_and_leads_again_with_it() {
    let server = Server::start(Software::MySql, 1, &[]).await;
    server.run("CREATE DATABASE hanging").await;
    let mut backend = address(&server, "hanging");
    backend.deadline = Duration::from_secs(1);
    let backend = BackendAddress::MySql(backend);
    let store = BackendStore::open(&backend, Deployment::default()).await.unwrap();
    let running = Running::on(store, "a").await;
    leader_among(&[&running]).await;
    assert_eq!(running.member.health(), Health::Healthy);

    let hung = Instant::now();
    server.signal("STOP");
    while running.leads() {
        assert!(
            hung.elapsed() < Duration::from_secs(3),
            "it still believes that it leads"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("stepped down after {:.1} s", hung.elapsed().as_secs_f64());
    assert!(matches!(running.member.barrier().await, Err(Unconfirmed::NoQuorum(_))));
    let outcome = running.member.propose(cluster()).await;
    assert!(
        matches!(
            outcome,
            Err(ProposeError::NoQuorum(_) | ProposeError::OutcomeUnknown(_))
        ),
        "{outcome:?}"
    );
    let health = running.member.health();
    assert!(
        matches!(&health, Health::Unhealthy(why) if why.starts_with("the backend takes no writes")),
        "{health:?}"
    );
    server.signal("CONT");
    leader_among(&[&running]).await;
    assert!(running.member.propose(cluster()).await.is_ok());
}
