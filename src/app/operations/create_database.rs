//! Creates a database and its owner role, and revokes the privileges of PUBLIC on it.
//!
//! A retry must recognise its own objects. So the role gets a comment with its uid, in the
//! transaction that creates it, and the database is recognised by its owner.

use super::{
    super::admin::{Session, execute, fetch, role_password_label},
    context::Context,
    delete_database::drop_in_time,
    plan::{self, End, Plan, Step, commit, nothing},
};
use crate::{
    domain::{
        Error, Reason, Result,
        database::{Database, State},
        operation::{GivesWay, Outcome},
    },
    failpoint,
    pg::{
        scram,
        sql::{quote_identifier, quote_literal},
    },
    store::{Tx, roles::OwnerRole},
};
use uuid::Uuid;

pub(crate) const PLAN: Plan = Plan {
    kind: "database.create",
    version: 1,
    verb: "create",
    after_children: false,
    gives_way: GivesWay::Never,
    tries: plan::TRIES,
    steps: &[
        Step {
            name: "role",
            title: "Create the owner role",
            act: |context| Box::pin(create_role(context)),
            undo: Some(|context| Box::pin(drop_role(context))),
            goal: None,
            undo_goal: None,
            failpoints: &[
                "database.create.role.in_transaction",
                "database.create.role.after_sql",
            ],
        },
        Step {
            name: "database",
            title: "Create the database",
            act: |context| Box::pin(create_database(context)),
            undo: Some(|context| Box::pin(drop_database(context))),
            goal: None,
            undo_goal: None,
            failpoints: &["database.create.database.after_sql"],
        },
        Step {
            name: "privileges",
            title: "Close the database to PUBLIC",
            act: |context| Box::pin(restrict(context)),
            undo: Some(|_| Box::pin(async { Ok(nothing()) })),
            goal: None,
            undo_goal: None,
            failpoints: &["database.create.privileges.after_sql"],
        },
    ],
    outcome: |tx, uid| Box::pin(outcome(tx, uid)),
    // The undo has removed everything, so the id can be used again.
    abandon: |tx, claim, _| Box::pin(tx.remove_database(claim.target_uid)),
};

/// A connection that waits until an earlier attempt no longer works on the database.
pub(super) async fn connect(context: &Context) -> Result<Session> {
    let instance = context.instance().await?;
    context
        .engine
        .servers
        .exclusive_connection(&instance, "postgres", &context.claim)
        .await
}

/// The comment that marks a role as created by Howdah.
pub(super) fn mark(role: &OwnerRole) -> String {
    format!("howdah role {}", role.uid)
}

/// Whether the role carries our mark; none if there is no such role.
pub(super) async fn owns_role(client: &Session, role: &OwnerRole) -> Result<Option<bool>> {
    let comment: Option<Option<String>> = fetch(
        client,
        "select shobj_description(oid, 'pg_authid') from pg_roles where rolname = $1",
        &[&role.postgresql_name],
    )
    .await?;
    Ok(comment.map(|comment| comment.as_deref() == Some(mark(role).as_str())))
}

/// Whether the database belongs to our role; none if there is no such database.
pub(super) async fn owns_database(
    client: &Session,
    database: &Database,
    role: &OwnerRole,
) -> Result<Option<bool>> {
    let owner: Option<String> = fetch(
        client,
        "select pg_get_userbyid(datdba)::text from pg_database where datname = $1",
        &[&database.postgresql_name.as_str()],
    )
    .await?;
    let Some(owner) = owner else { return Ok(None) };
    Ok(Some(
        owner == role.postgresql_name && owns_role(client, role).await? == Some(true),
    ))
}

async fn create_role(context: &Context) -> Result<End> {
    let engine = &context.engine;
    let role = engine.store.owner_role(context.claim.target_uid).await?;
    let client = connect(context).await?;
    match owns_role(&client, &role).await? {
        Some(true) => return Ok(nothing()),
        Some(false) => {
            let message = format!("the role `{}` exists on the server", role.postgresql_name);
            return Err(Error::new(Reason::RoleExists, message).with_field("database.owner"));
        }
        None => {}
    }
    let password = engine
        .keyring
        .open(&role.password, &role_password_label(role.uid))?;
    let mut salt = [0; 16];
    engine.random.fill(&mut salt)?;
    // The server, and so its log, never sees the password itself.
    let verifier = scram::verifier(&password, &salt, scram::ITERATIONS);
    let name = quote_identifier(&role.postgresql_name);
    execute(
        &client,
        &format!(
            "begin; create role {name} login password {}",
            quote_literal(&verifier)
        ),
    )
    .await?;
    failpoint::hit("database.create.role.in_transaction");
    let comment = quote_literal(&mark(&role));
    execute(
        &client,
        &format!("comment on role {name} is {comment}; commit"),
    )
    .await?;
    failpoint::hit("database.create.role.after_sql");
    Ok(nothing())
}

async fn drop_role(context: &Context) -> Result<End> {
    let role = context
        .engine
        .store
        .owner_role(context.claim.target_uid)
        .await?;
    let client = connect(context).await?;
    if owns_role(&client, &role).await? == Some(true) {
        execute(
            &client,
            &format!("drop role {}", quote_identifier(&role.postgresql_name)),
        )
        .await?;
    }
    Ok(nothing())
}

async fn create_database(context: &Context) -> Result<End> {
    let database = context.database().await?;
    let role = context.engine.store.owner_role(database.uid).await?;
    let client = connect(context).await?;
    match owns_database(&client, &database, &role).await? {
        Some(true) => return Ok(nothing()),
        Some(false) => {
            let message = format!(
                "the database `{}` exists on the server",
                database.postgresql_name
            );
            return Err(Error::new(Reason::DatabaseExists, message)
                .with_resource(database.name.to_string()));
        }
        None => {}
    }
    execute(&client, &statement(&database)).await?;
    failpoint::hit("database.create.database.after_sql");
    Ok(nothing())
}

fn statement(database: &Database) -> String {
    let mut sql = format!(
        "create database {} owner {} encoding {}",
        quote_identifier(database.postgresql_name.as_str()),
        quote_identifier(database.owner.as_str()),
        quote_literal(&database.encoding),
    );
    let locale = quote_literal(&database.locale);
    match (
        database.locale_provider.as_str(),
        database.locale.is_empty(),
    ) {
        ("icu", false) => sql.push_str(&format!(" locale_provider icu icu_locale {locale}")),
        ("icu", true) => sql.push_str(" locale_provider icu icu_locale 'und'"),
        // The C library's locale must fit the encoding too; `locale` sets both, and `C` fits every
        // one.
        ("builtin", _) => match builtin_locale(database) {
            "C" => sql.push_str(" locale_provider builtin locale 'C'"),
            locale => {
                let locale = quote_literal(locale);
                sql.push_str(&format!(" locale_provider builtin builtin_locale {locale}"));
            }
        },
        ("", true) => {}
        (_, true) => sql.push_str(" locale_provider libc"),
        (_, false) => sql.push_str(&format!(" locale_provider libc locale {locale}")),
    }
    // template1 has a fixed encoding and locale, which may differ from the requested ones.
    sql.push_str(" template template0");
    sql
}

/// The requested locale. Without one, the locale that knows Unicode if the encoding is UTF-8,
/// otherwise `C`.
fn builtin_locale(database: &Database) -> &str {
    let encoding = database.encoding.to_ascii_uppercase();
    match (database.locale.as_str(), encoding.as_str()) {
        ("", "UTF8" | "UTF-8") => "C.UTF-8",
        ("", _) => "C",
        (locale, _) => locale,
    }
}

async fn drop_database(context: &Context) -> Result<End> {
    let database = context.database().await?;
    let role = context.engine.store.owner_role(database.uid).await?;
    let client = connect(context).await?;
    if owns_database(&client, &database, &role).await? == Some(true) {
        drop_in_time(&client, &database, true).await?;
    }
    Ok(nothing())
}

async fn restrict(context: &Context) -> Result<End> {
    let database = context.database().await?;
    let client = connect(context).await?;
    let name = quote_identifier(database.postgresql_name.as_str());
    let limit = match database.connection_limit {
        0 => -1,
        limit => limit,
    };
    execute(
        &client,
        &format!(
            "revoke connect, temporary on database {name} from public; \
             alter database {name} connection limit {limit}"
        ),
    )
    .await?;
    failpoint::hit("database.create.privileges.after_sql");
    let uid = database.uid;
    Ok(commit(move |tx| {
        Box::pin(tx.set_database_state(uid, State::Ready))
    }))
}

async fn outcome(tx: &mut Tx, uid: Uuid) -> Result<Outcome> {
    let found = tx.lock_database_by_uid(uid).await?;
    let mut found = found.ok_or_else(|| Error::internal(format!("database {uid} is gone")))?;
    // The record is read before the commit that ends the operation, so the field is still set.
    found.reconciling = false;
    Ok(Outcome::Database(Box::new(found)))
}
