//! What can happen to a cluster and its members. The order of the acts and their numbers follow from the seed alone; which server is the
//! primary at that moment, and so what a number stands for, does not.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::kit::replication::Flavour;
use crate::kit::topology::Shape;
use crate::random::Random;

/// One kind of act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// SIGKILL of the primary.
    KillPrimary,
    /// The same, and it is started again at once, as by a supervisor.
    RestartPrimary,
    /// SIGKILL of the primary and of the leader.
    KillPrimaryAndLeader,
    /// SIGKILL of the primary and of a replica that acknowledges its commits.
    KillPrimaryAndReplica,
    /// SIGKILL of two servers.
    KillTwoServers,
    /// SIGSTOP of the primary: it accepts connections and does not answer.
    PausePrimary,
    /// SIGKILL of a server.
    KillServer,
    /// SIGSTOP of a server.
    PauseServer,
    /// A failed primary that returns with a transaction of its own is held. It is killed and started again several times.
    RestartHeld,
    /// SIGKILL of a member.
    KillMember,
    /// SIGSTOP of a member, which wakes up with old beliefs.
    PauseMember,
    /// Every write of a member to its disk takes long.
    SlowDisk,
    /// The same of the leader, and the primary is killed meanwhile.
    SlowDiskAndKillPrimary,
    /// The clock of a member jumps, and later jumps back.
    ClockJump,
    /// The same of the leader, and the primary is killed meanwhile.
    ClockJumpAndKillPrimary,
    /// No packet between two servers arrives.
    CutServers,
    /// The same between a member and a server.
    CutMemberFromServer,
    /// The same between two members.
    CutMembers,
    /// No packet from or to the primary arrives.
    BlackHolePrimary,
    /// The same of a server.
    BlackHoleServer,
    /// The same of half of the servers and one member together.
    BlackHoleDataCenter,
    /// A replica names an address at which something answers with hostile bytes, by a channel that it does not use.
    RogueSource,
    /// The same by its own `report_host`.
    RogueReportHost,
    /// A replica becomes a writable primary of its own and gets a replica: two clusters.
    SplitByHand,
    /// A replica also replicates from a server of another cluster, and the primary is killed.
    SecondChannel,
    /// A server is put in downtime for the time of the act.
    Downtime,
    /// A graceful takeover by the server that ham4db chooses.
    Takeover,
}

/// Every kind, its name for ACTS, and how often a deck has it. A deck has many failovers: that is what is to be right.
const ALL: [(Kind, &str, usize); 27] = [
    (Kind::KillPrimary, "kill-primary", 7),
    (Kind::RestartPrimary, "restart-primary", 2),
    (Kind::KillPrimaryAndLeader, "kill-primary-and-leader", 2),
    (Kind::KillPrimaryAndReplica, "kill-primary-and-replica", 1),
    (Kind::KillTwoServers, "kill-two-servers", 1),
    (Kind::PausePrimary, "pause-primary", 1),
    (Kind::KillServer, "kill-server", 1),
    (Kind::PauseServer, "pause-server", 1),
    (Kind::RestartHeld, "restart-held", 1),
    (Kind::KillMember, "kill-member", 1),
    (Kind::PauseMember, "pause-member", 1),
    (Kind::SlowDisk, "slow-disk", 1),
    (Kind::SlowDiskAndKillPrimary, "slow-disk-and-kill-primary", 2),
    (Kind::ClockJump, "clock-jump", 1),
    (Kind::ClockJumpAndKillPrimary, "clock-jump-and-kill-primary", 1),
    (Kind::CutServers, "cut-servers", 1),
    (Kind::CutMemberFromServer, "cut-member-from-server", 1),
    (Kind::CutMembers, "cut-members", 1),
    (Kind::BlackHolePrimary, "black-hole-primary", 1),
    (Kind::BlackHoleServer, "black-hole-server", 1),
    (Kind::BlackHoleDataCenter, "black-hole-data-center", 1),
    (Kind::RogueSource, "rogue-source", 1),
    (Kind::RogueReportHost, "rogue-report-host", 1),
    (Kind::SplitByHand, "split-by-hand", 1),
    (Kind::SecondChannel, "second-channel", 1),
    (Kind::Downtime, "downtime", 1),
    (Kind::Takeover, "takeover", 2),
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ALL.iter().find(|(kind, ..)| kind == self).map(|(_, name, _)| *name);
        f.write_str(name.expect("because the table has every kind"))
    }
}

/// How many servers a topology has at least: two halves of two.
pub(crate) const LEAST_SERVERS: usize = 4;

/// One act, with numbers that are reduced to a server or a member when it is played.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Act {
    pub(crate) kind: Kind,
    numbers: [usize; 3],
    /// How long it is left alone before it is mended.
    pub(crate) hold: Duration,
}

impl Act {
    /// One of `count` places.
    pub(crate) fn one_of(&self, count: usize) -> usize {
        let [one, ..] = self.numbers;
        one.checked_rem(count).unwrap_or_default()
    }

    /// Two different ones of at least two places.
    pub(crate) fn two_of(&self, count: usize) -> (usize, usize) {
        let [_, more, _] = self.numbers;
        let one = self.one_of(count);
        let step = 1 + more.checked_rem(count - 1).unwrap_or_default();
        (one, (one + step) % count)
    }

    /// One of `count` places, independent of the others.
    pub(crate) fn another_of(&self, count: usize) -> usize {
        let [.., last] = self.numbers;
        last.checked_rem(count).unwrap_or_default()
    }
}

/// The acts of a run: first one of each kind in an order that the seed determines, then whole decks, shuffled again and again.
#[derive(Debug)]
pub(crate) struct Deck {
    random: Random,
    chosen: Vec<(Kind, usize)>,
    next: Vec<Kind>,
}

impl Deck {
    /// Of all kinds, or of those with the given names, separated by commas.
    ///
    /// # Errors
    /// A name is unknown; the error lists those there are.
    pub(crate) fn new(seed: u64, names: &str) -> Result<Self> {
        let names: Vec<&str> = names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .collect();
        if let Some(unknown) = names.iter().find(|name| ALL.iter().all(|(_, known, _)| known != *name)) {
            let known: Vec<&str> = ALL.iter().map(|(_, name, _)| *name).collect();
            bail!("ACTS has the unknown act {unknown}; there are: {}", known.join(", "));
        }
        let is_chosen = |name: &str| names.is_empty() || names.contains(&name);
        let chosen: Vec<(Kind, usize)> = ALL
            .iter()
            .filter(|(_, name, _)| is_chosen(name))
            .map(|(kind, _, copies)| (*kind, *copies))
            .collect();
        ensure!(!chosen.is_empty(), "no act is chosen");
        let mut random = Random::new(seed);
        let next = shuffled(chosen.iter().map(|(kind, _)| *kind).collect(), &mut random);
        Ok(Self { random, chosen, next })
    }

    /// How many kinds there are.
    pub(crate) fn kinds(&self) -> usize {
        self.chosen.len()
    }

    /// The next act.
    pub(crate) fn draw(&mut self) -> Act {
        loop {
            if let Some(kind) = self.next.pop() {
                return Act {
                    kind,
                    numbers: [(); 3].map(|()| self.random.below(1 << 20)),
                    hold: Duration::from_millis(200 + 100 * u64::try_from(self.random.below(25)).unwrap_or_default()),
                };
            }
            let copies = |(kind, copies): &(Kind, usize)| std::iter::repeat_n(*kind, *copies);
            self.next = shuffled(self.chosen.iter().flat_map(copies).collect(), &mut self.random);
        }
    }
}

/// Fisher and Yates.
fn shuffled(mut kinds: Vec<Kind>, random: &mut Random) -> Vec<Kind> {
    for place in (1..kinds.len()).rev() {
        kinds.swap(place, random.below(place + 1));
    }
    kinds
}

/// A topology of 4 to 7 servers, most of them small: a machine has to start them.
pub(crate) fn shape(random: &mut Random, flavour: Flavour) -> Shape {
    let least = LEAST_SERVERS - 1;
    let replicas = if random.chance(75) {
        least
    } else {
        least + 1 + random.below(3)
    };
    let semi_sync = random.chance(60);
    // Some of the later replicas follow one of the earlier ones instead of the primary.
    let sources = (0..replicas)
        .map(|place| {
            if place >= 2 && random.chance(25) {
                1 + random.below(place)
            } else {
                0
            }
        })
        .collect();
    Shape {
        flavour,
        sources,
        semi_sync,
        reserved: false,
        performance_schema: false,
        first: Vec::new(),
    }
}
