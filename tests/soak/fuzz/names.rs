//! Names of resources of every kind: some that are there, some that are not, and some that
//! nothing can have.

use prost_reflect::MessageDescriptor;
use uuid::Uuid;

use crate::support::howdah::{PROJECT, instance_name};

pub struct Names {
    pub projects: Vec<String>,
    pub instances: Vec<String>,
    pub databases: Vec<String>,
    pub operations: Vec<String>,
    pub odd: Vec<String>,
}

impl Names {
    /// `operation` is there, and so are `orders/shop` and what is made meanwhile.
    pub fn new(operation: String) -> Self {
        let ids = ["orders", "orders", "billing", "a", "b1", "missing"];
        let instances: Vec<String> = ids.map(instance_name).to_vec();
        let below = |name: &String, id| format!("{name}/databases/{id}");
        let shops = instances.iter().map(|name| below(name, "shop"));
        let others = instances.iter().map(|name| below(name, "b1"));
        Self {
            projects: vec![
                PROJECT.to_owned(),
                PROJECT.to_owned(),
                "projects/elsewhere".into(),
            ],
            databases: shops.chain(others).collect(),
            operations: vec![operation, format!("{PROJECT}/operations/{}", Uuid::max())],
            odd: vec![
                format!("{PROJECT}/operations"),
                format!("{PROJECT}/operations/{{{}}}", Uuid::nil()),
                format!("{}/databases/", instances[0]),
                format!("{}/", instances[0]),
                format!("/{}", instances[0]),
                format!("{PROJECT}/instances/-"),
                format!("{PROJECT}/instances/Orders"),
                format!("{PROJECT}/instances/{}", "a".repeat(64)),
            ],
            instances,
        }
    }

    /// Those that a request of this type is about.
    pub fn fitting(&self, of: &MessageDescriptor) -> &[String] {
        let has = |field| of.get_field_by_name(field).is_some();
        match of.name() {
            "ListOperationsRequest" => &self.projects,
            name if name.ends_with("OperationRequest") => &self.operations,
            name if name.contains("Database") && has("parent") => &self.instances,
            name if name.contains("Database") || name.contains("Connection") => &self.databases,
            _ if has("parent") => &self.projects,
            _ => &self.instances,
        }
    }
}
