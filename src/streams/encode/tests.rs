//! What is written here is read by prost.

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::{
    pb::v1::{self, Change, Schema, change::Event, schema, value},
    pg::pgoutput::{Decoder, Message},
};

fn table(columns: usize, order: Option<Vec<usize>>) -> Known {
    let column = |at: usize| schema::Column {
        type_oid: 25,
        identity: at == 0,
        ..schema::Column::default()
    };
    Known {
        schema: Schema {
            schema_id: 300,
            columns: (0..columns).map(column).collect(),
            ..Schema::default()
        },
        key: vec![0],
        order,
        prefix: "t:".into(),
    }
}

fn tuple(out: &mut Vec<u8>, values: &[Option<Vec<u8>>]) {
    out.extend_from_slice(&u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        match value {
            None => out.push(b'n'),
            Some(bytes) => {
                out.push(b't');
                out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
                out.extend_from_slice(bytes);
            }
        }
    }
}

fn read(change: &RowChange<'_>) -> v1::RowChange {
    let mut out = Vec::new();
    change.write(&mut out);
    assert_eq!(out.len(), change.change_len());
    match Change::decode(&*out).unwrap().event.unwrap() {
        Event::Row(row) => row,
        other => panic!("{other:?}"),
    }
}

fn expected(value: &Option<Vec<u8>>) -> value::Value {
    match value {
        None => value::Value::Null(value::Null {}),
        Some(bytes) => match String::from_utf8(bytes.clone()) {
            Ok(text) => value::Value::Text(text),
            Err(_) => value::Value::Binary(bytes.clone()),
        },
    }
}

fn got(row: &v1::Row) -> Vec<value::Value> {
    let values = row.values.iter();
    values.map(|value| value.value.clone().unwrap()).collect()
}

proptest! {
    #[test]
    fn rows_are_read_back_by_prost(
        new in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..300)), 1..40),
        reversed: bool,
    ) {
        let mut bytes = b"U\0\0\0\x01O".to_vec();
        tuple(&mut bytes, &new);
        bytes.push(b'N');
        tuple(&mut bytes, &new);
        let message = Decoder::new().decode(&bytes).unwrap();
        let Message::Update(update) = message else { panic!("{message:?}") };
        let order = reversed.then(|| (0..new.len()).rev().collect());
        let table = table(new.len(), order);
        let mut id = String::new();
        let row = read(&RowChange::update(&table, update.old.as_ref(), &update.new, &mut id));
        let mut wanted: Vec<_> = new.iter().map(expected).collect();
        if reversed {
            wanted.reverse();
        }
        prop_assert_eq!(row.kind(), v1::row_change::Kind::Update);
        prop_assert_eq!(row.schema_id, 300);
        prop_assert_eq!(&got(row.after.as_ref().unwrap()), &wanted);
        prop_assert_eq!(&got(row.before.as_ref().unwrap()), &wanted);
        let id = match wanted.first().unwrap() {
            value::Value::Text(text) => format!("t:{}", text.replace('\\', "\\\\").replace('_', "\\_")),
            _ => String::new(),
        };
        prop_assert_eq!(row.element_id, id);
    }
}

#[test]
fn unchanged_values_come_from_a_full_old_image() {
    let mut bytes = b"U\0\0\0\x01O".to_vec();
    tuple(&mut bytes, &[Some(b"1".to_vec()), Some(b"large".to_vec())]);
    bytes.extend_from_slice(b"N\0\x02t\0\0\0\x012u");
    let Message::Update(update) = Decoder::new().decode(&bytes).unwrap() else {
        panic!("an update")
    };
    let (known, mut id) = (table(2, None), String::new());
    let row = read(&RowChange::update(
        &known,
        update.old.as_ref(),
        &update.new,
        &mut id,
    ));
    let text = |text: &str| value::Value::Text(text.into());
    assert_eq!(got(row.after.as_ref().unwrap()), [text("2"), text("large")]);
}

#[test]
fn columns_outside_the_identity_are_absent() {
    let mut bytes = b"D\0\0\0\x01K".to_vec();
    tuple(&mut bytes, &[Some(b"1".to_vec()), None]);
    let Message::Delete(delete) = Decoder::new().decode(&bytes).unwrap() else {
        panic!("a delete")
    };
    let (known, mut id) = (table(2, None), String::new());
    let row = read(&RowChange::delete(&known, &delete.old, &mut id));
    assert!(row.after.is_none());
    let absent = value::Value::Absent(value::Absent {});
    let before = got(row.before.as_ref().unwrap());
    assert_eq!(before, [value::Value::Text("1".into()), absent]);
    assert_eq!(row.element_id, "t:1");
}

#[test]
fn times_before_the_epoch_are_whole() {
    let of = |seconds, nanos| Timestamp { seconds, nanos };
    assert_eq!(time(0), of(946_684_800, 0));
    assert_eq!(time(-1), of(946_684_799, 999_999_000));
}
