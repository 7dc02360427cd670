//! Lists: pages, order, filters, deleted ones.

use howdah::pb::{
    google::longrunning::ListOperationsRequest,
    v1::{Instance, ListInstancesRequest, ListInstancesResponse},
};
use tonic::Code::InvalidArgument;

use super::rig::{Metadata, refused, serve};
use crate::support::howdah::{Howdah, PROJECT, instance_name};

/// Records instances that were never made: `i000`, `i001` and so on. Every third is
/// deleted, every second is of team `b`; they were created a minute apart, the last
/// one first, and changed in the order of their ids, ten at a time.
pub(super) async fn insert_instances(metadata: &Metadata, count: u32) {
    let sql = format!(
        "insert into instances (uid, project, id, display_name, labels, annotations,
            create_time, update_time, delete_time, purge_time, state, wanted_version,
            parameters, ephemeral, deletion_protection)
         select gen_random_uuid(), 'default', 'i' || lpad(n::text, 3, '0'), 'Number ' || n,
            jsonb_build_object('team', case n % 2 when 0 then 'a' else 'b' end), '{{}}',
            '2026-01-01 12:00:00Z'::timestamptz - n * interval '1 min',
            '2026-02-01 12:00:00Z'::timestamptz + n / 10 * interval '1 min',
            case n % 3 when 2 then now() end, case n % 3 when 2 then now() + interval '1 d' end,
            case n % 3 when 2 then 'DELETED' else 'STOPPED' end, '15', '{{}}', n % 2 = 0, false
         from generate_series(0, {count} - 1) n"
    );
    metadata.execute(&sql).await;
}

async fn serve_with(count: u32) -> Howdah {
    let howdah = serve().await;
    insert_instances(&Metadata::of(&howdah).await, count).await;
    howdah
}

async fn page(howdah: &Howdah, request: &ListInstancesRequest) -> ListInstancesResponse {
    let mut client = howdah.instances().await;
    let answer = client.list_instances(request.clone()).await;
    answer.unwrap().into_inner()
}

fn list() -> ListInstancesRequest {
    ListInstancesRequest {
        parent: PROJECT.into(),
        ..ListInstancesRequest::default()
    }
}

/// Every page of a list, as the ids on each.
async fn pages(howdah: &Howdah, mut request: ListInstancesRequest) -> Vec<Vec<String>> {
    let prefix = instance_name("");
    let id = |instance: Instance| instance.name.strip_prefix(&prefix).unwrap().to_owned();
    let mut pages = Vec::new();
    loop {
        let answer = page(howdah, &request).await;
        pages.push(answer.instances.into_iter().map(id).collect());
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            return pages;
        }
    }
}

fn ids(numbers: impl Iterator<Item = u32>) -> Vec<String> {
    numbers.map(|number| format!("i{number:03}")).collect()
}

fn live(number: &u32) -> bool {
    number % 3 != 2
}

#[tokio::test]
async fn pages_join_to_the_whole_list() {
    let howdah = serve_with(120).await;
    let whole = ids((0..120).filter(live));
    assert_eq!(whole.len(), 80);
    for (page_size, sizes) in [
        (0, vec![50, 30]),
        (1000, vec![80]),
        (i32::MAX, vec![80]),
        (80, vec![80]),
        (79, vec![79, 1]),
        (7, [vec![7; 11], vec![3]].concat()),
    ] {
        let found = pages(
            &howdah,
            ListInstancesRequest {
                page_size,
                ..list()
            },
        )
        .await;
        let found_sizes: Vec<_> = found.iter().map(Vec::len).collect();
        assert_eq!(found_sizes, sizes, "page size {page_size}");
        assert_eq!(found.concat(), whole);
    }
    let deleted = ListInstancesRequest {
        show_deleted: true,
        page_size: 1000,
        ..list()
    };
    assert_eq!(pages(&howdah, deleted).await, [ids(0..120)]);
}

#[tokio::test]
async fn orders_hold_over_pages() {
    let howdah = serve_with(120).await;
    let mut by_update: Vec<u32> = (0..120).filter(live).collect();
    by_update.sort_by_key(|number| (std::cmp::Reverse(number / 10), std::cmp::Reverse(*number)));
    for (order_by, whole) in [
        ("instance_id desc", ids((0..120).rev().filter(live))),
        ("create_time", ids((0..120).rev().filter(live))),
        ("create_time desc", ids((0..120).filter(live))),
        ("update_time asc", ids((0..120).filter(live))),
        ("update_time desc", ids(by_update.into_iter())),
    ] {
        let request = ListInstancesRequest {
            order_by: order_by.into(),
            page_size: 11,
            ..list()
        };
        assert_eq!(pages(&howdah, request).await.concat(), whole, "{order_by}");
    }
}

#[tokio::test]
async fn filters_hold_over_pages() {
    let howdah = serve_with(120).await;
    for (filter, whole) in [
        ("labels.team = a", ids((0..120).step_by(2).filter(live))),
        ("ephemeral=false", ids((1..120).step_by(2).filter(live))),
        ("state = STOPPED", ids((0..120).filter(live))),
        ("state = READY", vec![]),
        (
            "version = 15 AND instance_id < i010",
            ids((0..10).filter(live)),
        ),
        ("display_name = \"Number 7\"", ids(std::iter::once(7))),
        (
            "create_time > 2026-01-01T11:55:30Z",
            ids((0..5).filter(live)),
        ),
    ] {
        let request = ListInstancesRequest {
            filter: filter.into(),
            page_size: 9,
            ..list()
        };
        let found = pages(&howdah, request).await;
        assert_eq!(found.concat(), whole, "{filter}");
        assert!(found.iter().rev().skip(1).all(|page| page.len() == 9));
    }
    let deleted = ListInstancesRequest {
        filter: "state = DELETED".into(),
        show_deleted: true,
        ..list()
    };
    let whole = ids((0..120).filter(|number| !live(number)));
    assert_eq!(pages(&howdah, deleted).await.concat(), whole);
}

#[tokio::test]
async fn tokens_are_bound_to_their_arguments() {
    let howdah = serve_with(10).await;
    let first = ListInstancesRequest {
        page_size: 2,
        order_by: "create_time".into(),
        ..list()
    };
    let page_token = page(&howdah, &first).await.next_page_token;
    let next = ListInstancesRequest {
        page_token: page_token.clone(),
        ..first
    };
    // Another page size is no other query (AIP-158).
    let resized = ListInstancesRequest {
        page_size: 1,
        ..next.clone()
    };
    assert_eq!(page(&howdah, &resized).await.instances.len(), 1);
    for other in [
        ListInstancesRequest {
            order_by: "create_time desc".into(),
            ..next.clone()
        },
        ListInstancesRequest {
            filter: "labels.team = a".into(),
            ..next.clone()
        },
        ListInstancesRequest {
            show_deleted: true,
            ..next.clone()
        },
        ListInstancesRequest {
            parent: "projects/other".into(),
            ..next.clone()
        },
    ] {
        let answer = howdah.instances().await.list_instances(other).await;
        refused(answer, InvalidArgument, "PAGE_TOKEN_INVALID");
    }
    let request = ListOperationsRequest {
        name: PROJECT.into(),
        page_token,
        ..ListOperationsRequest::default()
    };
    let answer = howdah.operations().await.list_operations(request).await;
    refused(answer, InvalidArgument, "PAGE_TOKEN_INVALID");
}

/// What appears or goes while somebody pages is seen at most once, and the rest
/// exactly once.
#[tokio::test]
async fn pages_survive_changes_between_them() {
    let howdah = serve_with(60).await;
    let metadata = Metadata::of(&howdah).await;
    let mut request = ListInstancesRequest {
        page_size: 10,
        show_deleted: true,
        ..list()
    };
    let (mut found, mut removed) = (Vec::new(), Vec::new());
    loop {
        let answer = page(&howdah, &request).await;
        found.extend(answer.instances.into_iter().map(|instance| instance.name));
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
        // The one that the token names, and one that is still to come.
        let last: u32 = found
            .last()
            .unwrap()
            .rsplit_once('i')
            .unwrap()
            .1
            .parse()
            .unwrap();
        let coming = format!("i{:03}", last + 5);
        metadata
            .execute(&format!(
                "delete from instances where id in ('i{last:03}', '{coming}')"
            ))
            .await;
        removed.push(coming);
    }
    let kept = ids(0..60).into_iter().filter(|id| !removed.contains(id));
    let expected: Vec<_> = kept.map(|id| instance_name(&id)).collect();
    assert!(removed.len() > 3);
    assert_eq!(found, expected);
}

/// Operations: newest first, by pages, done or not.
#[tokio::test]
async fn operations_are_listed_newest_first() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    metadata
        .execute(
            "insert into operations (id, project, kind, plan_version, verb, target, target_uid,
                principal, parameters, state, cancellable, create_time, end_time)
             select gen_random_uuid(), 'default', 'test.old', 1, 'test', 'n' || n,
                gen_random_uuid(), 'test', '{}', case n % 4 when 0 then 'PENDING'
                else 'SUCCEEDED' end, false, now() - n / 3 * interval '1 min',
                case when n % 4 <> 0 then now() end
             from generate_series(0, 119) n",
        )
        .await;
    for (filter, count) in [("", 120), ("done = true", 90), ("done=false", 30)] {
        let mut request = ListOperationsRequest {
            name: format!("{PROJECT}/operations"),
            filter: filter.into(),
            page_size: 7,
            ..ListOperationsRequest::default()
        };
        let mut found = Vec::new();
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
        let created = |operation: &howdah::pb::google::longrunning::Operation| {
            let any = operation.metadata.as_ref().unwrap();
            let metadata: howdah::pb::v1::OperationMetadata =
                prost::Message::decode(any.value.as_slice()).unwrap();
            let time = metadata.create_time.unwrap();
            (time.seconds, time.nanos)
        };
        assert!(found.is_sorted_by(|a, b| created(a) >= created(b)));
        let mut names: Vec<_> = found.iter().map(|operation| &operation.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "{filter}");
    }
}
