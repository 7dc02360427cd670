//! Orphans: the first process of a container is handed every process whose parent has
//! gone, such as a server whose `pg_ctl` has ended, and has to wait for its end.

use std::{collections::HashSet, fs, time::Duration};

use rustix::process::{Pid, WaitOptions, getpid, waitpid};

/// How often dead children are looked for.
const INTERVAL: Duration = Duration::from_secs(5);

/// Waits for orphans as long as it is polled, if this is the first process. Returns at
/// once otherwise: somebody else has them.
pub async fn run() {
    if getpid().is_init() {
        reap(INTERVAL).await;
    }
}

/// Waits for dead children that were dead an interval ago, too: for its own children the
/// runtime waits as soon as they die.
async fn reap(interval: Duration) {
    let mut before = HashSet::new();
    loop {
        let dead = dead_children();
        wait_for(dead.intersection(&before));
        before = dead;
        tokio::time::sleep(interval).await;
    }
}

fn wait_for<'a>(dead: impl Iterator<Item = &'a Pid>) {
    for pid in dead {
        // Somebody else was faster: nothing is left to do.
        let _ = waitpid(Some(*pid), WaitOptions::NOHANG);
    }
}

/// Children of this process that have ended and whose status was not read yet (zombies).
fn dead_children() -> HashSet<Pid> {
    let own = getpid().as_raw_nonzero().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // Its name, in parentheses, may hold anything.
        let (_, facts) = stat.rsplit_once(") ")?;
        let mut facts = facts.split(' ');
        let dead_child = facts.next()? == "Z" && facts.next()? == own;
        dead_child.then_some(Pid::from_raw(pid)?)
    });
    pids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A child that no task waits for, as an orphan: the second look reaps it, and not the
    /// first, since its own task could still be about to do it.
    #[tokio::test]
    async fn a_child_that_stays_dead_is_waited_for() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let limit = Duration::from_secs(30);
        let until = async |there: bool| {
            while dead_children().contains(&pid) != there {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(limit, until(true)).await.unwrap();
        let first_look = tokio::time::timeout(Duration::ZERO, reap(Duration::from_secs(3600)));
        assert!(first_look.await.is_err());
        assert!(dead_children().contains(&pid));
        tokio::select! {
            () = reap(Duration::from_millis(20)) => panic!("it has no end"),
            gone = tokio::time::timeout(limit, until(false)) => gone.unwrap(),
        }
        assert!(child.wait().is_err(), "it was waited for");
    }
}
