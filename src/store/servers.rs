//! Servers of instances, and the ports reserved for them.

use std::ops::RangeInclusive;

use sqlx::types::Json;
use uuid::Uuid;

use super::{Store, Tx, fault::Measured, sealing};
use crate::domain::{
    Error, Reason, Result,
    instance::{ServerGoal, ServerRole},
    provider::{Learnt, Placement},
    version::Version,
};

/// The record of a new server.
#[derive(Clone, Debug)]
pub struct NewServer {
    /// Unique id, never reused.
    pub uid: Uuid,
    /// Instance that it belongs to.
    pub instance_uid: Uuid,
    /// Number within the instance.
    pub number: i32,
    /// Role of the server in the instance.
    pub role: ServerRole,
    /// Provider that runs it.
    pub provider: &'static str,
    /// Version of PostgreSQL that it will run.
    pub version: Version,
    /// Host and port. The port must be free there.
    pub placement: Option<Placement>,
    /// Sealed password of `howdah_admin`.
    pub admin_password: Vec<u8>,
}

/// The ports of a host.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Range from which servers get their ports.
    pub range: RangeInclusive<u16>,
    /// Ports that servers have already, in the range or outside.
    pub reserved: Vec<u16>,
}

/// Objects that Howdah may have created on a server.
#[derive(Clone, Debug)]
pub struct OnRecord {
    /// Unique ids of roles.
    pub roles: Vec<Uuid>,
    /// Names of databases in PostgreSQL.
    pub databases: Vec<String>,
    /// Unique ids of subscriptions. They are part of the names of publications and slots.
    pub subscriptions: Vec<Uuid>,
    /// Change streams, whose publications and slots are named after them.
    pub change_streams: Vec<Uuid>,
    /// Slots of change streams, adopted ones included.
    pub slots: Vec<String>,
}

impl Store {
    /// The objects on record for a server: roles, databases and change streams of its instance, and
    /// its own subscriptions. Each object is recorded before it is created on the server, and its
    /// record is deleted after it was removed there.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn on_record(&self, server: Uuid) -> Result<OnRecord> {
        sqlx::query_as!(
            OnRecord,
            r#"with owner as (select instance_uid from servers where uid = $1)
            select array(select uid from roles where instance_uid in (select * from owner))
                    as "roles!",
                array(select postgresql_name from databases
                    where instance_uid in (select * from owner)) as "databases!",
                array(select uid from subscriptions where server_uid = $1)
                    as "subscriptions!",
                array(select uid from change_streams
                    where instance_uid in (select * from owner)) as "change_streams!",
                array(select slot from change_streams
                    where instance_uid in (select * from owner)) as "slots!""#,
            server,
        )
        .fetch_one(&self.pool)
        .named("servers.on_record")
        .await
    }

    /// The sealed password of `howdah_admin` on a server.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND when the server is gone; METADATA_UNAVAILABLE.
    pub async fn admin_password(&self, server: Uuid) -> Result<Vec<u8>> {
        let found =
            sqlx::query_scalar!("select admin_password from servers where uid = $1", server)
                .fetch_optional(&self.pool)
                .named("servers.admin_password")
                .await?;
        found.ok_or_else(|| Error::new(Reason::InstanceNotFound, "the server does not exist"))
    }

    /// Unique ids of the servers on record for a host.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn servers_on(&self, host: Uuid) -> Result<Vec<Uuid>> {
        sqlx::query_scalar!("select uid from servers where host = $1", host)
            .fetch_all(&self.pool)
            .named("servers.servers_on")
            .await
    }
}

impl Tx {
    /// Records a new server with a port that [`Tx::lock_ports`] has shown to be free.
    ///
    /// # Errors
    /// SECRET_KEY_INVALID when the password is sealed with a key that was rotated out;
    /// METADATA_UNAVAILABLE.
    pub async fn insert_server(&mut self, new: &NewServer) -> Result<()> {
        sqlx::query!(
            "insert into servers (uid, instance_uid, number, role, provider, version, host, port,
                admin_password)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            new.uid,
            new.instance_uid,
            new.number,
            new.role.as_str(),
            new.provider,
            new.version.to_string(),
            new.placement.map(|placement| placement.host),
            new.placement.map(|placement| i32::from(placement.port)),
            new.admin_password,
        )
        .execute(self.connection())
        .raw("servers.insert_server")
        .await
        .map(|_| ())
        .map_err(sealing::refused)
    }

    /// The range of a host and its reserved ports. Until the transaction ends no other
    /// transaction can reserve a port there.
    ///
    /// # Errors
    /// HOST_NOT_FOUND; METADATA_UNAVAILABLE.
    pub async fn lock_ports(&mut self, host: Uuid) -> Result<Ports> {
        let range = sqlx::query!(
            "select first_port, last_port from hosts where id = $1 for no key update",
            host,
        )
        .fetch_optional(self.connection())
        .named("servers.lock_ports")
        .await?
        .ok_or_else(super::hosts::not_found)?;
        let broken = |_| Error::internal("ports of a host");
        let first = u16::try_from(range.first_port).map_err(broken)?;
        let last = u16::try_from(range.last_port).map_err(broken)?;
        let ports = sqlx::query_scalar!(
            r#"select port as "port!" from servers where host = $1 and port is not null"#,
            host,
        )
        .fetch_all(self.connection())
        .named("servers.lock_ports")
        .await?;
        let ports = ports.into_iter();
        Ok(Ports {
            range: first..=last,
            reserved: ports.filter_map(|port| port.try_into().ok()).collect(),
        })
    }

    /// Gives a server another port, which [`Tx::lock_ports`] has shown to be free.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn set_port(&mut self, server: Uuid, port: u16) -> Result<()> {
        let port = i32::from(port);
        sqlx::query!("update servers set port = $2 where uid = $1", server, port)
            .execute(self.connection())
            .named("servers.set_port")
            .await?;
        Ok(())
    }

    /// Stores what has become known of a server. Fields that are none stay unchanged.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn learn(&mut self, server: Uuid, learnt: &Learnt) -> Result<()> {
        sqlx::query!(
            "update servers set system_identifier = coalesce($2, system_identifier),
                address = coalesce($3, address) where uid = $1",
            server,
            learnt
                .system_identifier
                .map(|identifier| identifier.to_string()),
            learnt.address.as_ref().map(Json) as _,
        )
        .execute(self.connection())
        .named("servers.learn")
        .await?;
        Ok(())
    }

    /// Sets the goal of all servers of an instance.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn want(&mut self, instance: Uuid, goal: ServerGoal) -> Result<()> {
        sqlx::query!(
            "update servers set wanted = $2 where instance_uid = $1",
            instance,
            goal.as_str(),
        )
        .execute(self.connection())
        .named("servers.want")
        .await?;
        Ok(())
    }

    /// Sets the goal of an instance's active server only.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn want_active(&mut self, instance: Uuid, goal: ServerGoal) -> Result<()> {
        sqlx::query!(
            "update servers set wanted = $2 where instance_uid = $1 and role = 'ACTIVE'",
            instance,
            goal.as_str(),
        )
        .execute(self.connection())
        .named("servers.want_active")
        .await?;
        Ok(())
    }

    /// Whether an operation works on that server, or starts or stops all servers of its
    /// instance.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn is_worked_on(&mut self, instance: Uuid, server: Uuid) -> Result<bool> {
        sqlx::query_scalar!(
            r#"select exists (select from operations where end_time is null
                and (target_uid = $2 or target_uid = $1 and kind <> 'instance.recover'))
                as "worked_on!""#,
            instance,
            server,
        )
        .fetch_one(self.connection())
        .named("servers.is_worked_on")
        .await
    }

    /// Records that a server has been started, and the version that it runs if that is known.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn mark_server_started(
        &mut self,
        server: Uuid,
        version: Option<Version>,
    ) -> Result<()> {
        sqlx::query!(
            "update servers set started = true, version = coalesce($2, version) where uid = $1",
            server,
            version.map(|version| version.to_string()),
        )
        .execute(self.connection())
        .named("servers.mark_server_started")
        .await?;
        Ok(())
    }
}
