//! Lists of change streams.

use howdah::pb::v1::{ChangeStream, ListChangeStreamsRequest, ListChangeStreamsResponse};
use tonic::Code;

use crate::{
    service::rig::{Metadata, refused, serve},
    support::howdah::{Howdah, instance_name},
};

/// Records streams that were never made: `s000`, `s001` and so on, every third of them LOST,
/// every second of team `b`, created a minute apart, the last one first.
async fn insert(metadata: &Metadata, count: u32) {
    crate::service::lists::insert_instances(metadata, 1).await;
    let sql = format!(
        "insert into change_streams (uid, instance_uid, id, labels, create_time, update_time,
            state, database, tables, publication, publish, on_change, slot, slot_adopted,
            max_retained_bytes, drop_when_exceeded)
         select gen_random_uuid(), uid, 's' || lpad(n::text, 3, '0'),
            jsonb_build_object('team', case n % 2 when 0 then 'a' else 'b' end),
            '2026-01-01 12:00:00Z'::timestamptz - n * interval '1 min',
            '2026-02-01 12:00:00Z'::timestamptz + n * interval '1 min',
            case n % 3 when 2 then 'LOST' else 'READY' end, 'shop', '[\"items\"]', '', 'ALL', 'END',
            'slot_' || n, true, 0, false
         from instances, generate_series(0, {count} - 1) n"
    );
    metadata.execute(&sql).await;
}

fn list() -> ListChangeStreamsRequest {
    ListChangeStreamsRequest {
        parent: instance_name("i000"),
        ..ListChangeStreamsRequest::default()
    }
}

async fn page(howdah: &Howdah, request: &ListChangeStreamsRequest) -> ListChangeStreamsResponse {
    let mut client = howdah.streams().await;
    let answer = client.list_change_streams(request.clone()).await;
    answer.unwrap().into_inner()
}

/// The ids on all pages.
async fn ids(howdah: &Howdah, mut request: ListChangeStreamsRequest) -> Vec<String> {
    let id = |it: ChangeStream| it.name.rsplit('/').next().unwrap().to_owned();
    let mut found = Vec::new();
    loop {
        let answer = page(howdah, &request).await;
        found.extend(answer.change_streams.into_iter().map(id));
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            return found;
        }
    }
}

fn named(numbers: impl Iterator<Item = u32>) -> Vec<String> {
    numbers.map(|number| format!("s{number:03}")).collect()
}

#[tokio::test]
async fn lists_are_cut_ordered_and_filtered() {
    let howdah = serve().await;
    insert(&Metadata::of(&howdah).await, 60).await;
    assert_eq!(page(&howdah, &list()).await.change_streams.len(), 50);
    for page_size in [0, 7, 1000] {
        let request = ListChangeStreamsRequest {
            page_size,
            ..list()
        };
        assert_eq!(ids(&howdah, request).await, named(0..60));
    }
    let ordered = |order_by: &str| ListChangeStreamsRequest {
        order_by: order_by.into(),
        page_size: 9,
        ..list()
    };
    assert_eq!(
        ids(&howdah, ordered("create_time")).await,
        named((0..60).rev())
    );
    assert_eq!(
        ids(&howdah, ordered("update_time desc")).await,
        named((0..60).rev())
    );
    assert_eq!(
        ids(&howdah, ordered("change_stream_id desc")).await,
        named((0..60).rev())
    );
    let filtered = |filter: &str| ListChangeStreamsRequest {
        filter: filter.into(),
        ..list()
    };
    let lost = named((0..60).filter(|number| number % 3 == 2));
    assert_eq!(ids(&howdah, filtered("state = LOST")).await, lost);
    let both = named((0..60).filter(|number| number % 3 == 2 && number % 2 == 1));
    assert_eq!(
        ids(&howdah, filtered("state = LOST AND labels.team = b")).await,
        both
    );
    assert!(ids(&howdah, filtered("database = other")).await.is_empty());
    assert_eq!(
        ids(&howdah, filtered("change_stream_id < s002")).await,
        named(0..2)
    );
}

#[tokio::test]
async fn wrong_lists_are_refused() {
    let howdah = serve().await;
    insert(&Metadata::of(&howdah).await, 1).await;
    let mut client = howdah.streams().await;
    for (request, reason) in [
        (
            ListChangeStreamsRequest {
                filter: "owner = x".into(),
                ..list()
            },
            "FILTER_INVALID",
        ),
        (
            ListChangeStreamsRequest {
                filter: "state = SOON".into(),
                ..list()
            },
            "FILTER_INVALID",
        ),
        (
            ListChangeStreamsRequest {
                order_by: "slot".into(),
                ..list()
            },
            "ORDER_BY_INVALID",
        ),
        (
            ListChangeStreamsRequest {
                page_token: "x".into(),
                ..list()
            },
            "PAGE_TOKEN_INVALID",
        ),
        (
            ListChangeStreamsRequest {
                page_size: -1,
                ..list()
            },
            "PAGE_SIZE_NEGATIVE",
        ),
    ] {
        let answer = client.list_change_streams(request).await;
        refused(answer, Code::InvalidArgument, reason);
    }
    let absent = ListChangeStreamsRequest {
        parent: instance_name("absent"),
        ..list()
    };
    refused(
        client.list_change_streams(absent).await,
        Code::NotFound,
        "INSTANCE_NOT_FOUND",
    );
}

#[tokio::test]
async fn a_record_of_another_release_degrades_alone() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    insert(&metadata, 3).await;
    metadata
        .execute(
            "alter table change_streams drop constraint change_streams_on_change_check;
             update change_streams set on_change = 'LATER' where id = 's001'",
        )
        .await;
    let answer = page(&howdah, &list()).await;
    assert_eq!(answer.change_streams.len(), 3);
    let degraded = &answer.change_streams[1];
    assert_eq!(degraded.state, 0);
    assert_eq!(degraded.conditions[0].reason, "RECORD_UNREADABLE");
    let not_lost = ListChangeStreamsRequest {
        filter: "state != LOST".into(),
        ..list()
    };
    assert_eq!(ids(&howdah, not_lost).await, named(0..2));
}
