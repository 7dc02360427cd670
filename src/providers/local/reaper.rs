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
        for pid in dead.intersection(&before) {
            // Somebody else was faster: nothing is left to do.
            let _ = waitpid(Some(*pid), WaitOptions::NOHANG);
        }
        before = dead;
        tokio::time::sleep(interval).await;
    }
}

/// Children of this process that have ended and that nobody has waited for.
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

    /// A shell whose own child outlives it, dead children of ours, and one that the
    /// runtime waits for.
    #[tokio::test]
    async fn orphans_are_waited_for_and_own_children_left_alone() {
        rustix::process::set_child_subreaper(Some(getpid())).unwrap();
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", "sleep 60 > /dev/null 2>&1 & echo $!"]);
        let orphan = String::from_utf8(shell.output().await.unwrap().stdout).unwrap();
        let orphan = Pid::from_raw(orphan.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(orphan, rustix::process::Signal::KILL).unwrap();
        let work = async {
            while rustix::process::test_kill_process(orphan).is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for _ in 0..20 {
                let mut shell = tokio::process::Command::new("sh");
                let status = shell.args(["-c", "exit 7"]).status().await;
                assert_eq!(status.unwrap().code(), Some(7));
            }
        };
        let limit = Duration::from_secs(30);
        tokio::select! {
            () = reap(Duration::from_millis(500)) => panic!("it has no end"),
            done = tokio::time::timeout(limit, work) => done.unwrap(),
        }
    }
}
