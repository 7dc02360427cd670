//! Short names: `orders` for an instance, `orders/shop` for a database or a change stream.

use super::exit::{Exit, Failure};

/// Resource names of one project.
#[derive(Clone, Debug)]
pub(super) struct Names {
    project: String,
}

impl Names {
    pub(super) fn new(project: String) -> Self {
        Self { project }
    }

    /// `projects/{project}`.
    pub(super) fn project(&self) -> String {
        match self.project.strip_prefix("projects/") {
            Some(_) => self.project.clone(),
            None => format!("projects/{}", self.project),
        }
    }

    /// The full name of an instance, from `orders` or from the full name.
    pub(super) fn instance(&self, text: &str) -> Result<String, Failure> {
        match text.split('/').collect::<Vec<_>>().as_slice() {
            ["projects", _, "instances", _] => Ok(text.to_owned()),
            [id] if !id.is_empty() => Ok(format!("{}/instances/{id}", self.project())),
            _ => Err(wrong(text, "an instance", "orders")),
        }
    }

    /// The full name of a database, from `orders/shop` or from the full name.
    pub(super) fn database(&self, text: &str) -> Result<String, Failure> {
        match text.split('/').collect::<Vec<_>>().as_slice() {
            ["projects", _, "instances", _, "databases", _] => Ok(text.to_owned()),
            [instance, id] if !instance.is_empty() && !id.is_empty() => Ok(format!(
                "{}/instances/{instance}/databases/{id}",
                self.project()
            )),
            _ => Err(wrong(text, "a database", "orders/shop")),
        }
    }

    /// The name of a change stream, of `orders/audit` or the whole name.
    pub(super) fn change_stream(&self, text: &str) -> Result<String, Failure> {
        match text.split('/').collect::<Vec<_>>().as_slice() {
            ["projects", _, "instances", _, "changeStreams", _] => Ok(text.to_owned()),
            [instance, id] if !instance.is_empty() && !id.is_empty() => Ok(format!(
                "{}/instances/{instance}/changeStreams/{id}",
                self.project()
            )),
            _ => Err(wrong(text, "a change stream", "orders/audit")),
        }
    }

    /// The full name of an operation, from its id or from the full name.
    pub(super) fn operation(&self, text: &str) -> Result<String, Failure> {
        match text.split('/').collect::<Vec<_>>().as_slice() {
            ["projects", _, "operations", _] => Ok(text.to_owned()),
            [id] if !id.is_empty() => Ok(format!("{}/operations/{id}", self.project())),
            _ => Err(wrong(text, "an operation", "its id")),
        }
    }

    /// Shortens a name that belongs to this project.
    pub(super) fn short(&self, name: &str) -> String {
        let inner = name
            .strip_prefix(&self.project())
            .and_then(|rest| rest.strip_prefix('/'));
        let Some(inner) = inner else {
            return name.to_owned();
        };
        match inner.split('/').collect::<Vec<_>>().as_slice() {
            ["instances" | "operations", id] => (*id).to_owned(),
            ["instances", instance, _, id] => format!("{instance}/{id}"),
            _ => name.to_owned(),
        }
    }
}

fn wrong(text: &str, what: &str, example: &str) -> Failure {
    let message = format!("`{text}` is no name of {what}: write {example} or the whole name");
    Failure::new(Exit::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_whole_names_are_taken() {
        let names = Names::new("p".into());
        let instance = "projects/p/instances/orders";
        let database = "projects/p/instances/orders/databases/shop";
        assert_eq!(names.instance("orders").unwrap(), instance);
        assert_eq!(names.instance(instance).unwrap(), instance);
        assert_eq!(names.database("orders/shop").unwrap(), database);
        assert_eq!(names.database(database).unwrap(), database);
        assert_eq!(names.short(database), "orders/shop");
        let stream = "projects/p/instances/orders/changeStreams/audit";
        assert_eq!(names.change_stream("orders/audit").unwrap(), stream);
        assert_eq!(names.change_stream(stream).unwrap(), stream);
        assert_eq!(names.short(stream), "orders/audit");
        assert!(names.change_stream(database).is_err());
        assert_eq!(names.short(instance), "orders");
        let other = "projects/q/instances/orders";
        assert_eq!(names.short(other), other);
        for text in ["", "a/b", "projects/p/databases/x", "/"] {
            assert!(names.instance(text).is_err(), "{text}");
        }
        for text in ["shop", "a/b/c", "a/", ""] {
            assert!(names.database(text).is_err(), "{text}");
        }
    }
}
