//! Arguments of lists.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use howdah::pb::{
    google::longrunning::ListOperationsRequest,
    v1::{ListDatabasesRequest, ListInstancesRequest},
};
use tonic::Code::InvalidArgument;

use crate::{
    service::rig::{Metadata, refused, serve},
    support::howdah::{Howdah, PROJECT, instance_name},
};

async fn list(howdah: &Howdah, request: ListInstancesRequest) -> Result<String, tonic::Status> {
    let request = ListInstancesRequest {
        parent: PROJECT.into(),
        ..request
    };
    let answer = howdah.instances().await.list_instances(request).await?;
    Ok(answer.into_inner().next_page_token)
}

/// The list of instances with these arguments is refused, and so is that of databases.
async fn refuse(howdah: &Howdah, request: ListInstancesRequest, why: &str) {
    let databases = ListDatabasesRequest {
        parent: instance_name("orders"),
        page_size: request.page_size,
        page_token: request.page_token.clone(),
        filter: request.filter.clone(),
        order_by: request.order_by.clone(),
    };
    let request = ListInstancesRequest {
        parent: PROJECT.into(),
        ..request
    };
    let answer = howdah.instances().await.list_instances(request).await;
    refused(answer, InvalidArgument, why);
    let answer = howdah.databases().await.list_databases(databases).await;
    refused(answer, InvalidArgument, why);
}

#[tokio::test]
async fn sizes_filters_and_orders_are_checked() {
    let howdah = serve().await;
    for page_size in [-1, i32::MIN] {
        let request = ListInstancesRequest {
            page_size,
            ..ListInstancesRequest::default()
        };
        refuse(&howdah, request, "PAGE_SIZE_NEGATIVE").await;
        let request = ListOperationsRequest {
            name: PROJECT.into(),
            page_size,
            ..ListOperationsRequest::default()
        };
        let answer = howdah.operations().await.list_operations(request).await;
        refused(answer, InvalidArgument, "PAGE_SIZE_NEGATIVE");
    }
    let long = "state = READY AND ".repeat(100);
    for filter in [
        "nothing = 1",
        "state",
        "state = ",
        "state = GONE",
        "state ~ READY",
        "create_time > yesterday",
        "(state = READY)",
        "state = READY OR state = STOPPED",
        "state = READY AND",
        "display_name = \"open",
        "\0",
        &long,
    ] {
        let request = ListInstancesRequest {
            filter: filter.into(),
            ..ListInstancesRequest::default()
        };
        refuse(&howdah, request, "FILTER_INVALID").await;
    }
    for order_by in [
        "nothing",
        "create_time down",
        "create_time, update_time",
        "create_time; drop table instances",
        "desc",
        "\0",
    ] {
        let request = ListInstancesRequest {
            order_by: order_by.into(),
            ..ListInstancesRequest::default()
        };
        refuse(&howdah, request, "ORDER_BY_INVALID").await;
    }
    let request = ListOperationsRequest {
        name: PROJECT.into(),
        filter: "verb = create".into(),
        ..ListOperationsRequest::default()
    };
    let answer = howdah.operations().await.list_operations(request).await;
    refused(answer, InvalidArgument, "FILTER_INVALID");
}

#[tokio::test]
async fn damaged_page_tokens_are_refused() {
    let howdah = serve().await;
    crate::service::lists::insert_instances(&Metadata::of(&howdah).await, 3).await;
    let by_time = ListInstancesRequest {
        page_size: 1,
        order_by: "create_time".into(),
        ..ListInstancesRequest::default()
    };
    let good = list(&howdah, by_time.clone()).await.unwrap();
    assert!(!good.is_empty());
    let mut damaged = vec!["x".to_owned(), "????".into(), "e30".into(), "bnVsbA".into()];
    damaged.push(good[..good.len() - 1].to_owned());
    damaged.push(good.to_uppercase());
    damaged.push("A".repeat(5000));
    // Well-formed ones that no server gave away.
    let bytes = URL_SAFE_NO_PAD.decode(&good).unwrap();
    let token: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    for (key, value) in [
        ("i", "\0"),
        ("t", "-262142-01-01T00:00:00Z"),
        ("t", "-4713-01-01T00:00:00Z"),
        ("t", "tomorrow"),
    ] {
        let mut forged = token.clone();
        forged[key] = value.into();
        damaged.push(URL_SAFE_NO_PAD.encode(forged.to_string()));
    }
    for page_token in damaged {
        eprintln!("token {page_token:.80}");
        let request = ListInstancesRequest {
            page_token: page_token.clone(),
            parent: PROJECT.into(),
            ..by_time.clone()
        };
        let answer = howdah.instances().await.list_instances(request).await;
        assert!(answer.is_err(), "{page_token} was taken");
        refused(answer, InvalidArgument, "PAGE_TOKEN_INVALID");
        let request = ListOperationsRequest {
            name: PROJECT.into(),
            page_token,
            ..ListOperationsRequest::default()
        };
        let answer = howdah.operations().await.list_operations(request).await;
        refused(answer, InvalidArgument, "PAGE_TOKEN_INVALID");
    }
}
