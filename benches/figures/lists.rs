//! ListInstances and ListOperations over many records, with and without filters.

use std::time::Instant;

use howdah::{
    pb::{google::longrunning::ListOperationsRequest, v1::ListInstancesRequest},
    pg,
};

use crate::{
    support::{
        howdah::{Howdah, Options, PROJECT},
        postgres::server,
    },
    table::Table,
};

/// Calls of each kind; the first one is not counted.
const CALLS: usize = 20;

pub async fn measure(table: &mut Table) {
    let options = Options::external().await.with("HOWDAH_LOG_FILTER", "warn");
    let url = options.database_url.clone().unwrap();
    let howdah = Howdah::serve(options).await;
    let client = server(15).client(url.rsplit('/').next().unwrap()).await;
    let mut rows = 0;
    for (upto, many) in [(10_000, "10 000"), (100_000, "100 000")] {
        record(&client, rows + 1, upto).await;
        rows = upto;
        for (what, request) in requests(rows) {
            let times = instances(&howdah, request).await;
            row(table, &format!("{many} instances: {what}"), &times);
        }
        let middle = middle(&howdah, rows / 2).await;
        let times = instances(&howdah, middle).await;
        row(
            table,
            &format!("{many} instances: a page in the middle"),
            &times,
        );
        for filter in ["", "done = false", "done = true"] {
            let times = operations(&howdah, filter).await;
            let what = if filter.is_empty() {
                "first page"
            } else {
                filter
            };
            row(table, &format!("{many} operations: {what}"), &times);
        }
    }
}

fn row(table: &mut Table, what: &str, milliseconds: &[f64]) {
    let how = "one connection, one call, pages of 50; p50 (smallest .. largest)";
    table.alone(what, milliseconds, "ms", "<= 20", how);
}

/// Stopped instances with a server each, and operations of which one in a thousand is
/// under way, in no order of time.
async fn record(client: &pg::Client, from: i32, upto: i32) {
    let sql = format!(
        "insert into hosts (id, name) values ('00000000-0000-0000-0000-000000000001', 'away')
            on conflict do nothing;
         insert into instances (uid, project, id, display_name, labels, annotations,
            create_time, update_time, state, wanted_version, parameters, ephemeral,
            deletion_protection)
         select gen_random_uuid(), 'default', 'i' || md5(n::text), 'Number ' || n,
            jsonb_build_object('team', 'team-' || n % 100), '{{}}',
            now() - n * 7919 % {upto} * interval '1 min', now() - n * interval '1 s',
            case n % 5000 when 7 then 'FAILED' else 'STOPPED' end, '15',
            '{{\"work_mem\": \"4MB\"}}', n % 2 = 0, false
         from generate_series({from}, {upto}) n;
         insert into servers (uid, instance_uid, number, role, provider, version,
            wanted, system_identifier, address, admin_password)
         select gen_random_uuid(), i.uid, 1, 'ACTIVE', 'elsewhere', '15.18', 'STOPPED', '7351231231231231231',
            '{{\"host\": \"127.0.0.1\", \"port\": 5432, \"socket_directory\": null}}', key.head
         from instances i left join servers s on s.instance_uid = i.uid,
            (select '\\x01'::bytea || set_byte('\\x00', 0, length(key_id)) || key_id::bytea
                as head from sealing_keys limit 1) key
         where s.uid is null;
         insert into operations (id, project, kind, plan_version, verb, target, target_uid,
            principal, parameters, state, cancellable, create_time, run_time, end_time)
         select gen_random_uuid(), 'default', 'bench.nothing', 1, 'do', 'n' || n,
            gen_random_uuid(), 'bench', '{{}}',
            case n % 1000 when 0 then 'PENDING' else 'SUCCEEDED' end, false,
            now() - n * interval '1 s', now() + interval '1 day',
            case n % 1000 when 0 then null else now() end
         from generate_series({from}, {upto}) n"
    );
    client.batch_execute(&sql).await.unwrap();
    client.batch_execute("vacuum analyze").await.unwrap();
}

fn requests(rows: i32) -> Vec<(&'static str, ListInstancesRequest)> {
    let list = |filter: &str, order_by: &str| ListInstancesRequest {
        parent: PROJECT.into(),
        filter: filter.into(),
        order_by: order_by.into(),
        ..Default::default()
    };
    let last = format!("display_name = \"Number {rows}\"");
    vec![
        ("first page", list("", "")),
        ("newest first", list("", "create_time desc")),
        ("by a common state", list("state = STOPPED", "")),
        ("by a label of 1 %", list("labels.team = team-7", "")),
        ("by a rare state", list("state = FAILED", "")),
        (
            "by a state that most do not have",
            list("state != STOPPED", ""),
        ),
        ("by one display name", list(&last, "update_time desc")),
        (
            "by what none has",
            list("labels.team = none", "create_time"),
        ),
    ]
}

/// The page after so many instances.
async fn middle(howdah: &Howdah, after: i32) -> ListInstancesRequest {
    let mut request = ListInstancesRequest {
        parent: PROJECT.into(),
        page_size: 1000,
        ..Default::default()
    };
    let mut client = howdah.instances().await;
    for _ in 0..after / 1000 {
        let page = client.list_instances(request.clone()).await.unwrap();
        request.page_token = page.into_inner().next_page_token;
    }
    request.page_size = 0;
    request
}

async fn instances(howdah: &Howdah, request: ListInstancesRequest) -> Vec<f64> {
    let mut client = howdah.instances().await;
    let mut times = Vec::new();
    for _ in 0..=CALLS {
        let begin = Instant::now();
        client.list_instances(request.clone()).await.unwrap();
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    times.split_off(1)
}

async fn operations(howdah: &Howdah, filter: &str) -> Vec<f64> {
    let mut client = howdah.operations().await;
    let request = ListOperationsRequest {
        name: PROJECT.into(),
        filter: filter.into(),
        ..Default::default()
    };
    let mut times = Vec::new();
    for _ in 0..=CALLS {
        let begin = Instant::now();
        client.list_operations(request.clone()).await.unwrap();
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    times.split_off(1)
}
