//! A disk that is soon full.

use std::{
    fs::File,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A file system in memory. A shell that waits on a pipe from this process takes it away
/// when the pipe closes, however that comes.
pub struct SmallDisk {
    place: PathBuf,
    watchdog: Child,
}

impl SmallDisk {
    /// Mounted on a directory, which is removed with it. `size` is as mount(8) has it.
    pub fn mount(place: PathBuf, size: &str) -> Self {
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=711"),
                "tmpfs",
            ])
            .arg(&place)
            .status();
        let script = "trap '' INT TERM HUP; cat; umount -l \"$0\"; rmdir \"$0\"";
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", script]).arg(&place);
        watchdog.stdin(Stdio::piped()).stdout(Stdio::null());
        let disk = Self {
            watchdog: watchdog.process_group(0).spawn().unwrap(),
            place,
        };
        assert!(mounted.unwrap().success(), "a tmpfs is not mounted");
        disk
    }

    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Fills it with a file, to the last byte.
    pub fn fill(&self) -> PathBuf {
        let path = self.place.join("filler");
        let mut file = File::create(&path).unwrap();
        for size in [64 * 1024, 4096] {
            let block = vec![0; size];
            while file.write_all(&block).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// Says so where a test cannot be run, and fails there if that is CI.
pub fn may_mount() -> bool {
    let may = rustix::process::geteuid().is_root();
    if !may {
        eprintln!("NOT RUN: only root can mount a small disk");
        assert!(std::env::var_os("CI").is_none(), "CI runs as root");
    }
    may
}
