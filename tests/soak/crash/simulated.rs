//! The servers of a simulated world, which are all one PostgreSQL: what is left on it, and
//! how that is taken away between two rows.

use howdah::pg;
use serde_json::json;

use super::picture::roles_and_databases;
use crate::{service::SimulatedWorld, support::howdah::Options};

/// A world in which each goal takes a look more, so that each step waits.
pub struct Simulated {
    world: SimulatedWorld,
    superuser: pg::Client,
    /// Roles and databases of its PostgreSQL before anything was created.
    bare: Vec<String>,
}

impl Simulated {
    pub async fn new() -> Self {
        let world = SimulatedWorld::new(&[]);
        world.is(&json!({ "looks": 1 }));
        let superuser = world.superuser().await;
        let bare = roles_and_databases(&superuser).await;
        Self {
            world,
            superuser,
            bare,
        }
    }

    pub async fn options(&self) -> Options {
        self.world.options().await
    }

    /// The only server ends.
    pub fn kill(&self) {
        self.world.kill();
    }

    /// The servers that have a state file.
    pub fn uids(&self) -> Vec<String> {
        let stem = |path: &std::path::PathBuf| path.file_stem().unwrap().to_str().unwrap().into();
        self.world.servers().iter().map(stem).collect()
    }

    /// How many of them run.
    pub fn running(&self) -> usize {
        let states = self.world.states().into_iter();
        states.filter(|state| state["running"] == true).count()
    }

    /// The state of each server, and what is on their PostgreSQL, whoever has left it there.
    pub async fn picture(&self) -> Vec<String> {
        let states = self.world.states().into_iter();
        let states = states.map(|state| format!("server {state}"));
        let inside = roles_and_databases(&self.superuser).await;
        states.chain(inside).collect()
    }

    /// Takes away what a server leaves on the PostgreSQL when it is removed: Howdah's
    /// databases and roles, and only those. Nothing else may be there.
    pub async fn clean_up(&self) {
        let left = "with own as (select oid, rolname from pg_roles
                where shobj_description(oid, 'pg_authid') ~ '^howdah role ')
            select format('drop database %I with (force)', datname), 1 as turn
            from pg_database where datdba in (select oid from own)
            union all select format('drop role %I', rolname), 2 from own
            union all select format('drop role %I', rolname), 3
            from pg_roles where rolname = 'howdah_admin' order by turn";
        for row in self.superuser.query(left, &[]).await.unwrap() {
            let drop: String = row.get(0);
            self.superuser.batch_execute(&drop).await.unwrap();
        }
        let now = roles_and_databases(&self.superuser).await;
        assert_eq!(now, self.bare, "the PostgreSQL of the simulated world");
    }
}
