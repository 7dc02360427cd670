//! Owner roles, which are created together with databases.

use uuid::Uuid;

use super::{
    Store, Tx,
    fault::{Measured, broken_constraint},
    sealing,
};
use crate::domain::{Error, Reason, Result};

/// The record of a new role.
#[derive(Clone, Debug)]
pub struct NewRole {
    /// Unique id, never reused.
    pub uid: Uuid,
    /// Instance that it belongs to.
    pub instance_uid: Uuid,
    /// Resource id.
    pub id: String,
    /// Name in PostgreSQL.
    pub postgresql_name: String,
    /// Database that it is created for.
    pub database_uid: Uuid,
    /// Sealed password.
    pub password: Vec<u8>,
}

/// The owner role of a database.
#[derive(Clone, Debug)]
pub struct OwnerRole {
    /// Unique id, never reused. The comment on the role in PostgreSQL contains it.
    pub uid: Uuid,
    /// Name in PostgreSQL.
    pub postgresql_name: String,
    /// Sealed password, bound to the role's uid.
    pub password: Vec<u8>,
}

impl Store {
    /// The owner role of a database.
    ///
    /// # Errors
    /// DATABASE_NOT_FOUND; METADATA_UNAVAILABLE.
    pub async fn owner_role(&self, database: Uuid) -> Result<OwnerRole> {
        let found = sqlx::query_as!(
            OwnerRole,
            "select uid, postgresql_name, password from roles where database_uid = $1",
            database,
        )
        .fetch_optional(&self.pool)
        .named("roles.owner_role")
        .await?;
        found.ok_or_else(|| Error::new(Reason::DatabaseNotFound, "the database does not exist"))
    }
}

impl Tx {
    /// Records a new role.
    ///
    /// # Errors
    /// ROLE_EXISTS; SECRET_KEY_INVALID when the password is sealed with a key that is not
    /// in use any more; METADATA_UNAVAILABLE.
    pub async fn insert_role(&mut self, new: &NewRole) -> Result<()> {
        let inserted = sqlx::query!(
            "insert into roles (uid, instance_uid, id, postgresql_name, database_uid, password)
             values ($1, $2, $3, $4, $5, $6)",
            new.uid,
            new.instance_uid,
            new.id,
            new.postgresql_name,
            new.database_uid,
            new.password,
        )
        .execute(self.connection())
        .raw("roles.insert_role")
        .await;
        let Err(error) = inserted else { return Ok(()) };
        match broken_constraint(&error) {
            Some("roles_instance_uid_id_key" | "roles_instance_uid_postgresql_name_key") => {
                let message = format!("the role `{}` exists", new.postgresql_name);
                Err(Error::new(Reason::RoleExists, message).with_field("database.owner"))
            }
            _ => Err(sealing::refused(error)),
        }
    }
}
