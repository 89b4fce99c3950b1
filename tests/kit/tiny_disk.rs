//! A disk that is soon full.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::netns::privileged;

/// A filesystem in memory of some megabytes, unmounted when dropped.
#[derive(Debug)]
pub(crate) struct TinyDisk {
    folder: PathBuf,
}

impl TinyDisk {
    /// Mounts it on an empty folder; everybody may write there.
    pub(crate) fn mount(folder: &Path, megabytes: u32) -> Result<Self> {
        let options = format!("size={megabytes}m,mode=1777");
        privileged(
            "mount",
            &["-t", "tmpfs", "-o", &options, "tmpfs", &folder.to_string_lossy()],
        )?;
        Ok(Self {
            folder: folder.to_path_buf(),
        })
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Leaves no byte on it.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut file = File::create(self.filling()).context("fill the tiny disk")?;
        for size in [64 * 1024, 1] {
            let piece = vec![0_u8; size];
            while file.write(&piece).is_ok_and(|written| written == size) {}
        }
        Ok(())
    }

    /// Gives the space back.
    pub(crate) fn free(&self) -> Result<()> {
        fs::remove_file(self.filling()).context("free the tiny disk")
    }

    fn filling(&self) -> PathBuf {
        self.folder.join("filling")
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        // Servers may still have files open there. What stays mounted is some memory, until the machine restarts.
        privileged("umount", &["--lazy", &self.folder.to_string_lossy()]).ok();
    }
}
