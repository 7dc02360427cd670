//! Reaps orphans. When a process ends, its children are handed to the first process of the
//! container, which must wait for them. A server is such an orphan: its `pg_ctl` has ended.

use std::{collections::HashSet, fs, time::Duration};

use rustix::process::{Pid, WaitOptions, getpid, waitpid};

/// How often to look for dead children.
const INTERVAL: Duration = Duration::from_secs(5);

/// Reaps orphans until the future is dropped, if this is the first process. Otherwise returns at
/// once: another process reaps them.
pub async fn run() {
    if getpid().is_init() {
        reap(INTERVAL).await;
    }
}

/// Waits for children that were dead in the previous round already. The runtime waits for its
/// own children as soon as they die, so those are not taken from it.
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
        // A failure means that the runtime has waited for this child: nothing is left to do.
        let _ = waitpid(Some(*pid), WaitOptions::NOHANG);
    }
}

/// Children of this process that have ended and that nobody has waited for (zombies).
fn dead_children() -> HashSet<Pid> {
    let own = getpid().as_raw_nonzero().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The program's name is in parentheses, and may itself contain any character.
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

    /// A child that no task waits for is like an orphan. The first round must not reap it,
    /// because its own task could still be about to do that; the second round must.
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
