//! Durable change streams.

use super::{instance::condition, refuse_large, refuse_nul_in, timestamp};
use crate::{
    app::CreateChangeStream,
    domain::{
        Reason, Result,
        change_stream::{ChangeStream, OnChange, Progress, Publish, Source, State},
        instance::{Condition, Status},
        name::{ChangeStreamName, Id},
        recorded::Recorded,
    },
    pb::v1,
};

/// The change stream on the wire.
pub(in crate::api) fn to_wire(stream: ChangeStream) -> v1::ChangeStream {
    let state = match stream.state {
        State::Creating => v1::change_stream::State::Creating,
        State::Ready => v1::change_stream::State::Ready,
        State::Deleting => v1::change_stream::State::Deleting,
        State::Failed => v1::change_stream::State::Failed,
        State::Lost => v1::change_stream::State::Lost,
    };
    let publish = match stream.publish {
        Publish::All => v1::Publish::All,
        Publish::Inserts => v1::Publish::Inserts,
    };
    let on_change = match stream.on_change {
        OnChange::End => v1::OnChange::End,
        OnChange::Follow => v1::OnChange::Follow,
    };
    let etag = stream.etag();
    let (tables, publication) = match stream.source {
        Source::Tables(tables) => (tables, String::new()),
        Source::Publication(name) => (Vec::new(), name.to_string()),
    };
    v1::ChangeStream {
        name: stream.name.to_string(),
        uid: stream.uid.to_string(),
        etag,
        create_time: Some(timestamp(stream.create_time)),
        update_time: Some(timestamp(stream.update_time)),
        state: state.into(),
        database: stream.database.to_string(),
        tables,
        publication,
        publish: publish.into(),
        on_change: on_change.into(),
        slot: stream.slot.to_string(),
        slot_adopted: stream.slot_adopted,
        max_retained_bytes: stream.max_retained_bytes,
        drop_when_exceeded: stream.drop_when_exceeded,
        progress: None,
        conditions: stream.conditions.into_iter().map(condition).collect(),
        labels: stream.labels,
    }
}

/// The change stream on the wire, or what is left of it.
pub(in crate::api) fn recorded_to_wire(stream: Recorded<ChangeStream>) -> v1::ChangeStream {
    match stream {
        Recorded::Whole(stream) => to_wire(stream),
        Recorded::Unreadable(unreadable) => v1::ChangeStream {
            conditions: vec![condition(Condition {
                kind: "Readable".to_owned(),
                status: Status::False,
                reason: Reason::RecordUnreadable.as_str().to_owned(),
                message: unreadable.message(),
                time: unreadable.update_time,
            })],
            name: unreadable.name,
            uid: unreadable.uid.to_string(),
            create_time: Some(timestamp(unreadable.create_time)),
            update_time: Some(timestamp(unreadable.update_time)),
            ..v1::ChangeStream::default()
        },
    }
}

/// How far a stream is, on the wire.
pub(in crate::api) fn progress_to_wire(progress: Progress) -> v1::change_stream::Progress {
    v1::change_stream::Progress {
        wal_end: progress.wal_end,
        sent: progress.sent,
        received: progress.received,
        delivered: progress.delivered,
        acknowledged: progress.acknowledged,
        confirmed: progress.confirmed,
        restart: progress.restart,
        retained_bytes: progress.retained_bytes,
        safe_bytes: progress.safe_bytes,
        wal_status: progress.wal_status,
        lag_bytes: progress.lag_bytes,
        active: progress.active,
        inactive_since: progress.inactive_since.map(timestamp),
    }
}

/// What a request asks to be created.
///
/// # Errors
/// NAME_MALFORMED, NAME_TOO_LONG, FIELD_INVALID, LABEL_INVALID.
pub(in crate::api) fn create(request: v1::CreateChangeStreamRequest) -> Result<CreateChangeStream> {
    let stream = request.change_stream.unwrap_or_default();
    refuse_nul_in(&stream.labels, "change_stream.labels", Reason::LabelInvalid)?;
    refuse_large(&[&stream.labels], "change_stream")?;
    let publish = match stream.publish() {
        v1::Publish::Unspecified | v1::Publish::All => Publish::All,
        v1::Publish::Inserts => Publish::Inserts,
    };
    let on_change = match stream.on_change() {
        v1::OnChange::Unspecified | v1::OnChange::End => OnChange::End,
        v1::OnChange::Follow => OnChange::Follow,
    };
    Ok(CreateChangeStream {
        name: ChangeStreamName {
            instance: request.parent.parse()?,
            stream: Id::parse(&request.change_stream_id, "change_stream_id")?,
        },
        labels: stream.labels,
        database: stream.database,
        tables: stream.tables,
        publication: stream.publication,
        publish,
        on_change,
        slot: stream.slot,
        max_retained_bytes: stream.max_retained_bytes,
        drop_when_exceeded: stream.drop_when_exceeded,
    })
}
