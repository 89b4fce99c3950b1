//! A replica that delays on purpose applies at once what it received, and delays again.

use std::time::Duration;

use ham4db::app::ports::StepError;
use ham4db::domain::instance::{InstanceFacts, Positioning, ThreadState};
use sqlx::Connection as _;

use crate::failover::{insert, pair};
use crate::server::{ADMIN, Server, Software};
use crate::watched::{LONG, Poller};

/// Far longer than any test, seconds.
const DELAY: u64 = 3600;
/// Long enough to see that nothing is done.
const SHORT: Duration = Duration::from_secs(1);

/// The threads stopped and the delay changed by hand, with the source alive: what the relay log loses comes again.
async fn delay(replica: &Server) {
    let statements = match replica.software {
        Software::MySql => {
            format!("STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_DELAY = {DELAY}; START REPLICA")
        }
        Software::MariaDb => format!("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = {DELAY}; START SLAVE"),
    };
    replica.run(&statements).await;
}

fn delays(facts: &InstanceFacts) -> u64 {
    facts.managed_channel().unwrap().delay_seconds
}

fn goes_by(facts: &InstanceFacts) -> Positioning {
    facts.managed_channel().unwrap().positioning
}

/// A replica that delays and has received five rows that it has not applied; the source is killed.
async fn holding_five(poller: &Poller, software: Software) -> (Server, Server) {
    let (mut primary, replica) = pair(poller, software).await;
    delay(&replica).await;
    insert(&primary, 100, 5).await;
    let written = poller.facts(&primary).await.executed;
    poller
        .facts_when(&replica, "it received the five", |facts| {
            facts.received().contains(&written)
        })
        .await;
    primary.kill();
    assert_eq!(replica.value("SELECT COUNT(*) FROM d.t").await, "0");
    (primary, replica)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_is_lifted_and_put_back_without_losing_relay_log() {
    for software in [Software::MariaDb, Software::MySql] {
        let poller = Poller::new();
        let (mut primary, replica) = holding_five(&poller, software).await;
        let by_gtid = goes_by(&poller.facts(&replica).await);
        let mut session = poller.session(&replica).await;
        session.stop_receiver(LONG).await.unwrap();
        let received = session.facts(LONG).await.unwrap().received();
        // Nothing was lifted: nothing changes.
        session.delay_by(DELAY, LONG).await.unwrap();
        assert_eq!(session.facts(LONG).await.unwrap().received(), received);
        session.apply_without_delay(LONG).await.unwrap();
        session.wait_applied(&received, LONG).await.unwrap();
        session.delay_by(0, LONG).await.unwrap();
        // MariaDB tells a transaction as soon as it is in the binary log, a moment before its rows are seen.
        assert_eq!(replica.value("SELECT COUNT(*) FROM d.t").await, "5");
        let facts = session.facts(LONG).await.unwrap();
        assert_eq!((delays(&facts), goes_by(&facts)), (0, by_gtid));
        session.delay_by(DELAY, LONG).await.unwrap();
        let facts = session.facts(LONG).await.unwrap();
        assert_eq!((delays(&facts), goes_by(&facts)), (DELAY, by_gtid));
        let channel = facts.managed_channel().unwrap();
        assert_eq!((channel.io, channel.sql), (ThreadState::Stopped, ThreadState::Running));
        session.end().await;
        goes_on(&poller, &mut primary, &replica).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_actor_waits_until_everything_is_applied_before_it_puts_a_delay_back() {
    for software in [Software::MariaDb, Software::MySql] {
        let poller = Poller::new();
        let (mut primary, replica) = holding_five(&poller, software).await;
        let by_gtid = goes_by(&poller.facts(&replica).await);
        let mut blocker = replica.connect(ADMIN).await.unwrap();
        sqlx::raw_sql("LOCK TABLES d.t READ")
            .execute(&mut blocker)
            .await
            .unwrap();
        let mut session = poller.session(&replica).await;
        session.stop_receiver(LONG).await.unwrap();
        let received = session.facts(LONG).await.unwrap().received();
        session.apply_without_delay(LONG).await.unwrap();
        session.end().await;
        let facts = poller.facts(&replica).await;
        assert_eq!((delays(&facts), goes_by(&facts)), (0, Positioning::FilePosition));
        // The applier waits for the lock.
        let mut session = poller.session(&replica).await;
        let refused = session.delay_by(DELAY, SHORT).await;
        assert!(matches!(refused, Err(StepError::TooSlow { .. })), "{refused:?}");
        blocker.close().await.unwrap();
        session.delay_by(DELAY, LONG).await.unwrap();
        let facts = session.facts(LONG).await.unwrap();
        assert!(facts.executed.contains(&received), "{software:?}");
        assert_eq!((delays(&facts), goes_by(&facts)), (DELAY, by_gtid));
        assert_eq!(replica.value("SELECT COUNT(*) FROM d.t").await, "5");
        session.end().await;
        goes_on(&poller, &mut primary, &replica).await;
    }
}

/// The source is back: the replica receives from it, and applies nothing of that.
async fn goes_on(poller: &Poller, primary: &mut Server, replica: &Server) {
    primary.start_again().await;
    let mut session = poller.session(replica).await;
    session.start_receiver(LONG).await.unwrap();
    session.end().await;
    insert(primary, 200, 3).await;
    let written = poller.facts(primary).await.executed;
    let facts = poller
        .facts_when(replica, "it received the three", |facts| {
            facts.received().contains(&written)
        })
        .await;
    assert!(!facts.executed.contains(&written));
    assert_eq!(replica.value("SELECT COUNT(*) FROM d.t").await, "5");
}
