//! What can happen to a cluster and its members. The acts follow from the seed alone; who is the primary at that moment does not.

use std::fmt;
use std::time::Duration;

use crate::kit::replication::Flavour;
use crate::kit::topology::Shape;
use crate::random::Random;

/// One act. Servers and members are named by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// SIGKILL of whoever is the primary.
    KillPrimary,
    /// The same, and it is started again at once, as by a supervisor.
    RestartPrimary,
    /// SIGKILL of the primary and of the leader.
    KillPrimaryAndLeader,
    /// SIGSTOP of the primary: it accepts connections and says nothing.
    PausePrimary,
    /// SIGKILL of a server, whatever it is.
    KillServer(usize),
    /// SIGSTOP of a server.
    PauseServer(usize),
    /// SIGKILL of a member.
    KillMember(usize),
    /// SIGSTOP of a member... of which the others hear nothing, and which wakes up with old beliefs.
    PauseMember(usize),
    /// Every write of a member to its disk takes long.
    SlowDisk(usize),
    /// The same of the leader, and the primary is killed meanwhile.
    SlowDiskAndKillPrimary,
    /// Nothing that one of two servers sends reaches the other.
    CutServers(usize, usize),
    /// The same between a member and a server.
    CutMemberFromServer(usize, usize),
    /// The same between two members.
    CutMembers(usize, usize),
    /// A server is put in downtime for the time of the act.
    Downtime(usize),
    /// A graceful takeover by whom ham4db chooses.
    Takeover,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillPrimary => f.write_str("kill the primary"),
            Self::RestartPrimary => f.write_str("kill the primary and start it at once"),
            Self::KillPrimaryAndLeader => f.write_str("kill the primary and the leader"),
            Self::PausePrimary => f.write_str("stop the primary (SIGSTOP)"),
            Self::KillServer(server) => write!(f, "kill db{}", server + 1),
            Self::PauseServer(server) => write!(f, "stop db{} (SIGSTOP)", server + 1),
            Self::KillMember(member) => write!(f, "kill member{}", member + 1),
            Self::PauseMember(member) => write!(f, "stop member{} (SIGSTOP)", member + 1),
            Self::SlowDisk(member) => write!(f, "slow disk of member{}", member + 1),
            Self::SlowDiskAndKillPrimary => f.write_str("slow disk of the leader, and kill the primary"),
            Self::CutServers(one, other) => write!(f, "cut db{} from db{}", one + 1, other + 1),
            Self::CutMemberFromServer(member, server) => write!(f, "cut member{} from db{}", member + 1, server + 1),
            Self::CutMembers(one, other) => write!(f, "cut member{} from member{}", one + 1, other + 1),
            Self::Downtime(server) => write!(f, "downtime of db{}", server + 1),
            Self::Takeover => f.write_str("graceful takeover"),
        }
    }
}

/// The next act on so many servers and three members, and how long it is left alone before it is mended.
pub(crate) fn next(random: &mut Random, servers: usize) -> (Act, Duration) {
    let (one, other) = (random.below(servers), random.below(servers - 1));
    let other = if other >= one { other + 1 } else { other };
    let (member, another) = (random.below(3), random.below(2));
    let another = if another >= member { another + 1 } else { another };
    let hold = Duration::from_millis(200 + 100 * u64::try_from(random.below(25)).unwrap_or_default());
    let act = match random.below(100) {
        0..=34 => Act::KillPrimary,
        35..=36 => Act::SlowDisk(member),
        37..=41 => Act::SlowDiskAndKillPrimary,
        42..=48 => Act::RestartPrimary,
        49..=56 => Act::KillPrimaryAndLeader,
        57..=59 => Act::PausePrimary,
        60..=66 => Act::KillServer(one),
        67..=69 => Act::PauseServer(one),
        70..=73 => Act::KillMember(member),
        74..=76 => Act::PauseMember(member),
        77..=81 => Act::CutServers(one, other),
        82..=84 => Act::CutMemberFromServer(member, one),
        85..=88 => Act::CutMembers(member, another),
        89..=91 => Act::Downtime(one),
        _ => Act::Takeover,
    };
    (act, hold)
}

/// A topology of 3 to 8 servers, most of them small: a machine has to start them.
pub(crate) fn shape(random: &mut Random) -> Shape {
    let flavour = if random.chance(60) {
        Flavour::MySql
    } else {
        Flavour::MariaDb
    };
    let replicas = if random.chance(70) {
        2 + random.below(2)
    } else {
        4 + random.below(4)
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
        first: Vec::new(),
    }
}
