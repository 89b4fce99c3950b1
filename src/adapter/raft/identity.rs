//! The identity of this member: `identity.json` next to `raft.db`.
//!
//! A member id means one log for ever. So the id is on disk before any vote. When `identity.json` and `raft.db` carry different ids, the
//! member counts as wiped: it keeps the uuid of the group, gives up the id, and joins again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::log_store::{self, LogOwner, LogStore};
use super::types::MemberNode;
use crate::domain::state::MemberId;

/// File name of the identity within the data directory.
pub const FILE_NAME: &str = "identity.json";

/// The version of the file that this program writes.
const FILE_VERSION: u32 = 1;

/// The progress of a member towards membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum IdentityPhase {
    /// This member founds the group and has assigned all ids. Next: [`Self::Member`], when the group runs.
    Founding,
    /// This member was assigned an id; `raft.db` may not carry it yet. Next: [`Self::Joining`].
    Assigned,
    /// `raft.db` carries the id. Next: [`Self::Member`], when the membership in its log has it as a voter.
    Joining,
    /// Is, or was, a voter of the membership in its log.
    Member,
    /// The log of the former id is missing or was moved away. May only join its group. Next: [`Self::Assigned`], with a new id.
    Wiped,
}

/// The content of `identity.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberIdentity {
    /// Version of the file.
    pub version: u32,
    /// Uuid of the group.
    pub cluster_uuid: String,
    /// History of the group's state.
    pub history: String,
    /// Progress towards membership.
    pub phase: IdentityPhase,
    /// Its id; `None` when wiped.
    pub member: Option<MemberId>,
    /// The ids of all founders; empty for a member that joined later.
    #[serde(default)]
    pub founders: BTreeMap<MemberId, MemberNode>,
}

impl MemberIdentity {
    /// An identity with an id.
    pub fn new(cluster_uuid: &str, history: &str, phase: IdentityPhase, member: MemberId) -> Self {
        Self {
            version: FILE_VERSION,
            cluster_uuid: cluster_uuid.to_owned(),
            history: history.to_owned(),
            phase,
            member: Some(member),
            founders: BTreeMap::new(),
        }
    }

    /// The same group, without the id.
    #[must_use]
    pub fn wiped(&self) -> Self {
        Self {
            phase: IdentityPhase::Wiped,
            member: None,
            founders: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// The owner that `raft.db` must carry; `None` when wiped.
    pub fn owner(&self) -> Option<LogOwner> {
        self.member.map(|member| LogOwner {
            cluster_uuid: self.cluster_uuid.clone(),
            member,
        })
    }

    /// Reads `identity.json`; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read or parsed, or was written by a newer program.
    pub fn load(directory: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(FILE_NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io::Error::other(format!("read {}: {error}", path.display()))),
        };
        let identity: Self = serde_json::from_str(&text)
            .map_err(|error| io::Error::other(format!("parse {}: {error}", path.display())))?;
        if identity.version > FILE_VERSION {
            return Err(io::Error::other(format!(
                "{} has version {}, this program understands up to {FILE_VERSION}: upgrade ham4db on this member",
                path.display(),
                identity.version
            )));
        }
        Ok(Some(identity))
    }

    /// Replaces `identity.json` atomically and durably: after a crash there is the old or the new file, after the return the new one.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        let path = directory.join(FILE_NAME);
        let failed = |error| io::Error::other(format!("write {}: {error}", path.display()));
        let text = serde_json::to_string_pretty(self)
            .map_err(io::Error::other)
            .map_err(failed)?;
        let fresh = directory.join("identity.json.new");
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&fresh, &path).map_err(failed)?;
        sync_directory(directory).map_err(failed)
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Moves a log away to a free name. Logs are evidence and are never deleted.
///
/// # Errors
/// When the directory cannot be written.
pub fn set_log_aside(directory: &Path, reason: &str) -> io::Result<Option<PathBuf>> {
    let current = directory.join(log_store::FILE_NAME);
    if !current.exists() {
        return Ok(None);
    }
    let named = |number: u32| directory.join(format!("{}.{reason}-{number}", log_store::FILE_NAME));
    let target = (1..10_000)
        .map(named)
        .find(|path| !path.exists())
        .ok_or_else(|| io::Error::other(format!("{}: too many logs set aside", directory.display())))?;
    let failed = |error| io::Error::other(format!("move {} to {}: {error}", current.display(), target.display()));
    fs::rename(&current, &target).map_err(failed)?;
    for side in ["-wal", "-shm"] {
        let with_side = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(side);
            PathBuf::from(name)
        };
        if with_side(&current).exists() {
            fs::rename(with_side(&current), with_side(&target)).map_err(failed)?;
        }
    }
    sync_directory(directory).map_err(failed)?;
    Ok(Some(target))
}

/// What the files of the data directory show together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryState {
    /// No identity and no log: it never was a member.
    Pristine,
    /// Was a member of this group; its log is gone.
    Wiped(MemberIdentity),
    /// Has an id, and a log that carries it or is still blank.
    Member(MemberIdentity),
}

/// Compares `identity.json` with `raft.db`, and moves a log of another owner away.
///
/// # Errors
/// When a file cannot be read, written or moved.
pub async fn examine(directory: &Path) -> io::Result<DirectoryState> {
    fs::create_dir_all(directory)
        .map_err(|error| io::Error::other(format!("make {}: {error}", directory.display())))?;
    let identity = MemberIdentity::load(directory)?;
    let log = if directory.join(log_store::FILE_NAME).exists() {
        let log = LogStore::open(directory, std::time::Duration::MAX).await?;
        let found = (log.owner().await?, log.is_blank().await?);
        log.close().await;
        Some(found)
    } else {
        None
    };
    let (owner, blank) = log.unwrap_or((None, true));
    match identity {
        None if owner.is_none() && blank => Ok(DirectoryState::Pristine),
        None => {
            let Some(owner) = owner else {
                return Err(io::Error::other(format!(
                    "{}/{} has a log without an owner: move it away",
                    directory.display(),
                    log_store::FILE_NAME
                )));
            };
            let former = MemberIdentity::new(&owner.cluster_uuid, "", IdentityPhase::Member, owner.member);
            wipe(directory, &former, "identity.json is missing").map(DirectoryState::Wiped)
        }
        Some(identity) if identity.phase == IdentityPhase::Wiped => {
            set_log_aside(directory, "orphaned")?;
            Ok(DirectoryState::Wiped(identity))
        }
        Some(identity) => {
            let may_be_unowned = matches!(identity.phase, IdentityPhase::Founding | IdentityPhase::Assigned);
            match (&owner, identity.owner()) {
                (Some(found), Some(own)) if *found == own => Ok(DirectoryState::Member(identity)),
                (None, Some(_)) if may_be_unowned && blank => Ok(DirectoryState::Member(identity)),
                (None, _) => wipe(directory, &identity, "raft.db is missing or empty").map(DirectoryState::Wiped),
                (Some(_), _) => {
                    wipe(directory, &identity, "raft.db holds the log of another id").map(DirectoryState::Wiped)
                }
            }
        }
    }
}

/// Gives up the id: the log is moved away, the uuid of the group is kept.
///
/// # Errors
/// When the directory cannot be written.
pub fn wipe(directory: &Path, identity: &MemberIdentity, why: &str) -> io::Result<MemberIdentity> {
    let aside = set_log_aside(
        directory,
        if why.starts_with("removed") {
            "removed"
        } else {
            "orphaned"
        },
    )?;
    let wiped = identity.wiped();
    wiped.save(directory)?;
    tracing::warn!(
        "member {} of group {} gave up its id: {why}{}; it will join again with a new id",
        identity.member.unwrap_or_default(),
        identity.cluster_uuid,
        aside
            .map(|path| format!("; its log was moved to {}", path.display()))
            .unwrap_or_default()
    );
    Ok(wiped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(phase: IdentityPhase) -> MemberIdentity {
        MemberIdentity::new("uuid-a", "history-a", phase, 2)
    }

    async fn owned_log(directory: &Path, member: MemberId) {
        let log = LogStore::open(directory, std::time::Duration::MAX).await.unwrap();
        log.put_owner(&LogOwner {
            cluster_uuid: "uuid-a".to_owned(),
            member,
        })
        .await
        .unwrap();
        log.close().await;
    }

    #[tokio::test]
    async fn empty_directory_is_pristine() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(
            examine(&directory.path().join("new")).await.unwrap(),
            DirectoryState::Pristine
        );
    }

    #[tokio::test]
    async fn assigned_member_may_have_no_log_yet() {
        let directory = tempfile::tempdir().unwrap();
        identity(IdentityPhase::Assigned).save(directory.path()).unwrap();
        assert_eq!(
            examine(directory.path()).await.unwrap(),
            DirectoryState::Member(identity(IdentityPhase::Assigned))
        );
    }

    #[tokio::test]
    async fn member_without_its_log_is_wiped_and_keeps_the_group() {
        for phase in [IdentityPhase::Joining, IdentityPhase::Member] {
            let directory = tempfile::tempdir().unwrap();
            identity(phase).save(directory.path()).unwrap();
            let DirectoryState::Wiped(wiped) = examine(directory.path()).await.unwrap() else {
                panic!("not wiped")
            };
            assert_eq!((wiped.member, wiped.cluster_uuid.as_str()), (None, "uuid-a"));
            assert_eq!(MemberIdentity::load(directory.path()).unwrap(), Some(wiped));
        }
    }

    #[tokio::test]
    async fn log_of_another_id_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        identity(IdentityPhase::Member).save(directory.path()).unwrap();
        owned_log(directory.path(), 7).await;
        assert!(matches!(
            examine(directory.path()).await.unwrap(),
            DirectoryState::Wiped(_)
        ));
        assert!(directory.path().join("raft.db.orphaned-1").exists());
        assert!(!directory.path().join("raft.db").exists());
    }

    #[tokio::test]
    async fn log_without_identity_never_founds_a_group() {
        let directory = tempfile::tempdir().unwrap();
        owned_log(directory.path(), 2).await;
        let DirectoryState::Wiped(wiped) = examine(directory.path()).await.unwrap() else {
            panic!("not wiped")
        };
        assert_eq!(wiped.cluster_uuid, "uuid-a");
        assert!(
            matches!(examine(directory.path()).await.unwrap(), DirectoryState::Wiped(_)),
            "and stays so"
        );
    }

    #[tokio::test]
    async fn matching_files_are_a_member() {
        let directory = tempfile::tempdir().unwrap();
        identity(IdentityPhase::Member).save(directory.path()).unwrap();
        owned_log(directory.path(), 2).await;
        assert_eq!(
            examine(directory.path()).await.unwrap(),
            DirectoryState::Member(identity(IdentityPhase::Member))
        );
    }
}
