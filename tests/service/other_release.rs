//! Records that another release has written: each degrades alone.

use howdah::pb::{
    google::longrunning::{
        ListOperationsRequest, Operation, WaitOperationRequest, operation::Result as Answer,
    },
    v1::{
        Condition, DeleteInstanceRequest, GetDatabaseRequest, GetInstanceRequest, Instance,
        ListDatabasesRequest, ListInstancesRequest, OperationMetadata, StartInstanceRequest,
        condition, operation_metadata::stage,
    },
};
use tonic::Code::FailedPrecondition;

use super::{
    lists::insert_instances,
    rig::{Metadata, failure, refused, serve},
};
use crate::support::howdah::{Howdah, PROJECT, eventually, instance_name, succeeded};

/// What a later release would do with a migration.
pub(super) const FORGET_CHECKS: &str =
    "alter table instances drop constraint instances_state_check;
    alter table servers drop constraint servers_role_check;
    alter table servers drop constraint servers_wanted_check;
    alter table databases drop constraint databases_state_check;
    alter table operations drop constraint operations_state_check;
    alter table operations drop constraint operations_check;
    alter table operation_stages drop constraint operation_stages_state_check;";

/// Ten instances; five of them hold what this release does not know, each something else.
async fn with_unreadable_instances() -> (Howdah, Metadata) {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    metadata.execute(FORGET_CHECKS).await;
    insert_instances(&metadata, 10).await;
    metadata
        .execute(
            r#"update instances set delete_time = null, purge_time = null, state = 'STOPPED';
            update instances set state = 'PAUSED' where id = 'i001';
            update instances set wanted_version = 'next' where id = 'i003';
            update instances set labels = '["team"]' where id = 'i005';
            update instances set parameters = '{"work_mem": {"value": 1}}' where id = 'i007';
            update instances set conditions = '[{"type": "Odd", "status": "MAYBE"},
                {"type": "Available", "status": "FALSE", "reason": "R", "message": "m",
                 "time": "2026-01-01T00:00:00Z"}]' where id = 'i008';
            update instances set conditions = '"none"' where id = 'i009'"#,
        )
        .await;
    (howdah, metadata)
}

const UNREADABLE: [&str; 5] = ["i001", "i003", "i005", "i007", "i009"];

async fn ids(howdah: &Howdah, filter: &str, order_by: &str) -> Vec<String> {
    let mut request = ListInstancesRequest {
        parent: PROJECT.into(),
        page_size: 3,
        filter: filter.into(),
        order_by: order_by.into(),
        ..ListInstancesRequest::default()
    };
    let mut found = Vec::new();
    loop {
        let answer = howdah
            .instances()
            .await
            .list_instances(request.clone())
            .await;
        let answer = answer.unwrap().into_inner();
        for instance in &answer.instances {
            let id = instance.name.rsplit_once('/').unwrap().1;
            assert_eq!(
                instance.state == 0,
                UNREADABLE.contains(&id),
                "{instance:?}"
            );
        }
        found.extend(answer.instances.into_iter().map(|found| found.name));
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            let id = |name: String| name.rsplit_once('/').unwrap().1.to_owned();
            return found.into_iter().map(id).collect();
        }
    }
}

#[tokio::test]
async fn instances_of_another_release_are_listed_among_the_others() {
    let (howdah, _) = with_unreadable_instances().await;
    let all: Vec<String> = (0..10).map(|number| format!("i{number:03}")).collect();
    let reversed: Vec<String> = all.iter().rev().cloned().collect();
    assert_eq!(ids(&howdah, "", "").await, all);
    assert_eq!(ids(&howdah, "", "create_time").await, reversed);
    let readable = ["i000", "i002", "i004", "i006", "i008"];
    assert_eq!(ids(&howdah, "state = STOPPED", "").await, readable);
    assert_eq!(ids(&howdah, "labels.team = a", "").await, readable);
    assert_eq!(ids(&howdah, "state != STOPPED", "").await, UNREADABLE);
    let one = ids(&howdah, "instance_id = i005", "").await;
    assert_eq!(one, ["i005"]);
}

#[tokio::test]
async fn an_instance_of_another_release_says_so_and_takes_no_change() {
    let (howdah, metadata) = with_unreadable_instances().await;
    for id in UNREADABLE {
        let name = instance_name(id);
        let request = GetInstanceRequest { name: name.clone() };
        // At once with one that can be read, so that both are read by one query.
        let whole = GetInstanceRequest {
            name: instance_name("i008"),
        };
        let (mut client, mut other) = (howdah.instances().await, howdah.instances().await);
        let (found, whole) = tokio::join!(client.get_instance(request), other.get_instance(whole));
        let found = found.unwrap().into_inner();
        assert_eq!((found.name.as_str(), found.state), (name.as_str(), 0));
        assert!(!found.uid.is_empty() && found.create_time.is_some());
        let condition = &found.conditions[0];
        assert_eq!(condition.r#type, "Readable");
        assert_eq!(condition.status(), condition::Status::False);
        assert_eq!(condition.reason, "RECORD_UNREADABLE");
        // A condition that cannot be read takes nothing else with it.
        let conditions: Vec<Condition> = whole.unwrap().into_inner().conditions;
        assert_eq!(conditions.len(), 1, "{conditions:?}");
        assert_eq!(conditions[0].r#type, "Available");

        let before = metadata.content().await;
        let request = StartInstanceRequest {
            name: name.clone(),
            ..StartInstanceRequest::default()
        };
        let answer = howdah.instances().await.start_instance(request).await;
        refused(answer, FailedPrecondition, "RECORD_UNREADABLE");
        let request = DeleteInstanceRequest {
            name,
            force: true,
            purge: true,
            ..DeleteInstanceRequest::default()
        };
        let answer = howdah.instances().await.delete_instance(request).await;
        refused(answer, FailedPrecondition, "RECORD_UNREADABLE");
        assert_eq!(metadata.content().await, before);
        let log = howdah.log();
        let told = log.lines().filter(|line| {
            line.contains("cannot be read and is left alone") && line.contains(&found.name)
        });
        assert_eq!(told.count(), 1, "{id} is logged once");
    }
}

#[tokio::test]
async fn databases_of_another_release_are_listed_among_the_others() {
    let (howdah, metadata) = with_unreadable_instances().await;
    // Of an instance that cannot be read itself.
    metadata
        .execute(
            r#"insert into databases (uid, instance_uid, id, display_name, labels, annotations,
                state, postgresql_name, owner, encoding, locale_provider, locale,
                connection_limit, deletion_protection)
            select gen_random_uuid(), uid, 'd' || n, '', '{}', '{}',
                case n when 2 then 'MOVING' else 'READY' end, 'd' || n, 'o' || n, 'UTF8', '', '',
                0, false from instances, generate_series(1, 5) n where id = 'i001';
            update databases set annotations = '7' where id = 'd4'"#,
        )
        .await;
    let mut request = ListDatabasesRequest {
        parent: instance_name("i001"),
        page_size: 2,
        ..ListDatabasesRequest::default()
    };
    let mut found = Vec::new();
    loop {
        let answer = howdah
            .databases()
            .await
            .list_databases(request.clone())
            .await;
        let answer = answer.unwrap().into_inner();
        found.extend(answer.databases);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let states: Vec<i32> = found.iter().map(|database| database.state).collect();
    assert_eq!(states, [2, 0, 2, 0, 2]);
    assert!(found.iter().all(|database| !database.uid.is_empty()));
    let request = GetDatabaseRequest {
        name: found[1].name.clone(),
    };
    let got = howdah.databases().await.get_database(request).await;
    assert_eq!(got.unwrap().into_inner(), found[1]);
    assert!(found[1].name.ends_with("i001/databases/d2"));
}

/// Operations that another release has written, by the name of their target: state, end
/// and failure.
const OPERATIONS: &str = r#"insert into operations (id, project, kind, plan_version, verb,
        target, target_uid, principal, parameters, state, cancellable, failure, last_error,
        create_time, end_time)
    select gen_random_uuid(), 'default', kind, 1, 'move', target, gen_random_uuid(), 'test',
        '{}', state, true, failure::jsonb, last_error::jsonb,
        now() - n * interval '1 min', case when done then now() end
    from (values
        (1, 'instance.stop', 'paused', 'PAUSED', null, null, false),
        (2, 'instance.stop', 'expired', 'EXPIRED', null, null, true),
        (3, 'instance.stop', 'failed', 'FAILED', '{"code": 7}', null, true),
        (4, 'instance.stop', 'reason', 'FAILED', '{"reason": "ODD", "message": "m"}', null, true),
        (5, 'instance.move', 'kind', 'RUNNING', null, '"text"', false),
        (6, 'instance.stop', 'undoing', 'UNDOING', '[]', null, false),
        (7, 'test.old', 'plain', 'SUCCEEDED', null, null, true)
    ) as t (n, kind, target, state, failure, last_error, done);
    insert into operation_stages (operation_id, position, name, title, state)
    select id, 0, 'stage', '', 'SKIPPED' from operations where target = 'plain'"#;

fn metadata_of(operation: &Operation) -> OperationMetadata {
    let any = operation.metadata.as_ref().unwrap();
    prost::Message::decode(any.value.as_slice()).unwrap()
}

#[tokio::test]
async fn operations_of_another_release_are_listed_among_the_others() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    metadata.execute(FORGET_CHECKS).await;
    metadata.execute(OPERATIONS).await;
    let mut found = Vec::new();
    for (filter, count) in [("done = false", 3), ("done = true", 4), ("", 7)] {
        let mut request = ListOperationsRequest {
            name: PROJECT.into(),
            filter: filter.into(),
            page_size: 2,
            ..ListOperationsRequest::default()
        };
        found.clear();
        loop {
            let mut client = howdah.operations().await;
            let answer = client.list_operations(request.clone()).await;
            let answer = answer.unwrap().into_inner();
            found.extend(answer.operations);
            request.page_token = answer.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        assert_eq!(found.len(), count, "{filter}");
    }
    for (operation, target) in found.iter().zip([
        "paused", "expired", "failed", "reason", "kind", "undoing", "plain",
    ]) {
        let told = metadata_of(operation);
        assert_eq!((told.target.as_str(), told.verb.as_str()), (target, "move"));
        assert!(told.create_time.is_some());
        assert_eq!(&howdah.operation(&operation.name).await, operation);
        match target {
            "paused" | "kind" | "undoing" => {
                assert!(!operation.done);
                assert!(told.last_error.contains("another release"), "{told:?}");
            }
            "plain" => {
                assert!(failure_of(operation).is_none());
                assert_eq!(told.stages[0].state(), stage::State::Unspecified);
            }
            _ => {
                let why = (FailedPrecondition, "RECORD_UNREADABLE".to_owned());
                assert_eq!(failure(operation), why, "{target}");
            }
        }
    }
    is_waited_for(&howdah, &metadata, &found[0]).await;
}

fn failure_of(operation: &Operation) -> Option<&howdah::pb::google::rpc::Status> {
    use howdah::pb::google::longrunning::operation::Result;
    match operation.result.as_ref().unwrap() {
        Result::Error(status) => Some(status),
        Result::Response(_) => None,
    }
}

/// Whoever waits is answered when the other release has ended the operation.
async fn is_waited_for(howdah: &Howdah, metadata: &Metadata, paused: &Operation) {
    let id = paused.name.rsplit_once('/').unwrap().1;
    let request = WaitOperationRequest {
        name: paused.name.clone(),
        timeout: None,
    };
    let mut client = howdah.operations().await;
    let end = format!(
        "update operations set state = 'CANCELLED', end_time = now(),
            failure = '{{\"reason\": \"OPERATION_CANCELLED\", \"message\": \"m\"}}'
         where id = '{id}'"
    );
    let (waited, ()) = tokio::join!(client.wait_operation(request), metadata.execute(&end));
    let waited = waited.unwrap().into_inner();
    assert_eq!(failure(&waited).1, "OPERATION_CANCELLED");
}

/// The answer is that of the release that ended the operation, whatever this one would say.
#[tokio::test]
async fn an_operation_answers_what_was_answered_at_its_end() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    metadata.execute(FORGET_CHECKS).await;
    let instance = howdah.instance("orders").await;
    let request = ListOperationsRequest {
        name: PROJECT.into(),
        ..ListOperationsRequest::default()
    };
    let listed = howdah.operations().await.list_operations(request).await;
    let created = listed.unwrap().into_inner().operations.remove(0);
    let answered: Instance = succeeded(&created);
    assert_eq!(answered, instance);
    assert!(answered.endpoint.is_some());
    // The resource goes on; a field is added that this release does not know.
    metadata
        .execute(
            r"update instances set state = 'STOPPED', display_name = 'changed';
            update servers set wanted = 'STOPPED';
            update operations set state = 'DONE_LATER', response = response || '\xf23e0178'
                where kind = 'instance.create'"
                .trim_start(),
        )
        .await;
    let again = howdah.operation(&created.name).await;
    assert!(again.done);
    let kept: Instance = succeeded(&again);
    assert_eq!(kept, instance);
    let (Some(Answer::Response(first)), Some(Answer::Response(second))) =
        (&created.result, &again.result)
    else {
        panic!("{again:?}");
    };
    assert_eq!(second.type_url, first.type_url);
    assert_eq!(
        second.value,
        [&first.value[..], b"\xf2\x3e\x01\x78"].concat()
    );
}

/// Workers leave what they cannot read alone, and go on with the rest.
#[tokio::test]
async fn workers_pass_over_operations_of_another_release() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    metadata.execute(FORGET_CHECKS).await;
    metadata.execute(OPERATIONS).await;
    howdah.instance("orders").await;
    eventually("the undoing one was looked at", || async {
        howdah
            .log()
            .contains("an operation of another release cannot be read")
    })
    .await;
    let log = howdah.log();
    assert!(!log.contains("cannot claim operations"), "{log}");
    let untouched = "operations where state in ('PAUSED', 'UNDOING') and end_time is null
        and lease_until is null and failures = 0";
    assert_eq!(metadata.count(untouched).await, 2);

    // The supervisor leaves an instance alone that it cannot read, and what works on it
    // waits for a release that can.
    metadata
        .execute("update instances set wanted_version = 'next' where id = 'orders'")
        .await;
    let request = GetInstanceRequest {
        name: instance_name("orders"),
    };
    let found = howdah.instances().await.get_instance(request.clone()).await;
    assert_eq!(found.unwrap().into_inner().state, 0);
    metadata
        .execute("update instances set wanted_version = '' where id = 'orders'")
        .await;
    let found = howdah.instances().await.get_instance(request.clone()).await;
    assert_eq!(found.unwrap().into_inner().state, 2, "as it was");

    // So does one of whose servers it cannot tell what they are.
    metadata
        .execute("update servers set role = 'STANDBY'")
        .await;
    let found = howdah.instances().await.get_instance(request.clone()).await;
    let found = found.unwrap().into_inner();
    assert_eq!((found.state, found.servers.len()), (0, 0));
    assert_eq!(found.conditions[0].reason, "RECORD_UNREADABLE");
    metadata.execute("update servers set role = 'ACTIVE'").await;
    let found = howdah.instances().await.get_instance(request).await;
    assert_eq!(found.unwrap().into_inner().state, 2, "as it was");
}
