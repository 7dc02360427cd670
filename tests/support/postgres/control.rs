//! What is done to a server of a test's own: it is stopped, frozen, copied, promoted.

use std::{fs, process::Stdio};

use super::{SUPERUSER, Server};
use crate::support::howdah::signal;

impl Server {
    /// `pg_ctl` with these arguments; waits until it is done.
    #[track_caller]
    pub fn control(&self, arguments: &[&str]) {
        let mut command = self.command("pg_ctl");
        command.args(["-w", "-D"]).arg(self.data());
        command.arg("-l").arg(self.dir.join("log")).args(arguments);
        command.stdout(Stdio::null());
        let status = command.status().unwrap();
        assert!(status.success(), "{arguments:?}\n{}", self.log());
    }

    /// Stops every process of the server, until the answer is dropped.
    pub fn freeze(&self) -> Frozen {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let postmaster: u32 = file.lines().next().unwrap().parse().unwrap();
        signal(postmaster, "STOP");
        let children = format!("/proc/{postmaster}/task/{postmaster}/children");
        let children = fs::read_to_string(children).unwrap();
        let mut pids: Vec<u32> = children
            .split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect();
        pids.iter().for_each(|pid| signal(*pid, "STOP"));
        pids.push(postmaster);
        Frozen(pids)
    }

    /// A hot standby of this server, which streams from it.
    pub fn standby(&self) -> Server {
        let standby = Server::prepare(&self.bin);
        let copied = self
            .command("pg_basebackup")
            .args(["--write-recovery-conf", "--wal-method=stream", "--no-sync"])
            .args(["--checkpoint=fast", "--no-password"])
            .args(["-U", SUPERUSER, "-p", &self.port.to_string()])
            .arg("-h")
            .arg(&self.dir)
            .arg("-D")
            .arg(standby.data())
            .output()
            .unwrap();
        assert!(copied.status.success(), "{copied:?}");
        let (file, dir) = (
            standby.data().join("postgresql.conf"),
            standby.dir.display(),
        );
        let own = format!(
            "port = {}\nunix_socket_directories = '{dir}'\n\
             ssl_cert_file = '{dir}/server.pem'\nssl_key_file = '{dir}/server.key'\n",
            standby.port
        );
        fs::write(&file, fs::read_to_string(&file).unwrap() + &own).unwrap();
        standby.control(&["start"]);
        standby
    }

    /// From now on commits of this server wait until a standby has them.
    pub async fn wait_for_standby(&self) {
        let client = self.client("postgres").await;
        for sql in [
            "alter system set synchronous_standby_names = '*'",
            "select pg_reload_conf()",
        ] {
            client.batch_execute(sql).await.unwrap();
        }
        let streams = "select count(*) from pg_stat_replication where sync_state = 'sync'";
        crate::support::howdah::eventually("the standby is synchronous", async || {
            let found = client.query_one(streams, &[]).await.unwrap();
            found.get::<_, i64>(0) == 1
        })
        .await;
    }

    /// Makes a primary of a standby, whose commits wait for nobody.
    pub async fn promote(&self) {
        self.control(&["promote"]);
        let client = self.client("postgres").await;
        for sql in [
            "alter system reset synchronous_standby_names",
            "select pg_reload_conf()",
        ] {
            client.batch_execute(sql).await.unwrap();
        }
    }

    /// Ends every session on a database but the caller's.
    pub async fn terminate(&self, database: &str) {
        let client = self.client("postgres").await;
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = $1 and pid <> pg_backend_pid()";
        client.query(sql, &[&database]).await.unwrap();
    }
}

/// Processes that are stopped; they go on when it is dropped.
pub struct Frozen(Vec<u32>);

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| signal(*pid, "CONT"));
    }
}
