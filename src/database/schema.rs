//! Validators and indexes, from the files in the top-level `database/`.
//!
//! Each validator names its version in the `title` of its schema, which MongoDB keeps with it. A leader puts its own in
//! place of an older one, and leaves a newer one alone: while nodes are upgraded one after the other, the lead may go back
//! to an older one, which must not take back what the newer has done.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt as _;
use mongodb::Database;
use mongodb::error::ErrorKind;

use super::documents::{COLLECTIONS, ELECTIONS, INTERVALS, MEMBERS, OBSERVATIONS, PROJECTION, REWARDS};
use super::errors::ProjectionError;
use super::mongo::bounded;

/// What the version stands behind in the title of a schema.
const TITLE: &str = "super-node, version ";

const INDEXES: &str = include_str!("../../database/indexes.json");

/// The collection exists already.
const NAMESPACE_EXISTS: i32 = 48;
/// An index of this key or name exists with other options, or with another key.
const INDEX_CONFLICTS: [i32; 2] = [85, 86];

fn validator_text(collection: &str) -> Option<&'static str> {
    Some(match collection {
        REWARDS => include_str!("../../database/validators/rewards.json"),
        INTERVALS => include_str!("../../database/validators/intervals.json"),
        OBSERVATIONS => include_str!("../../database/validators/observations.json"),
        MEMBERS => include_str!("../../database/validators/members.json"),
        ELECTIONS => include_str!("../../database/validators/elections.json"),
        PROJECTION => include_str!("../../database/validators/projection.json"),
        _ => return None,
    })
}

/// The validator of a collection; `None` for a collection that is not ours.
pub fn validator(collection: &str) -> Option<Document> {
    validator_text(collection)
        .map(|text| serde_json::from_str(text).expect("the embedded file is a document"))
}

/// The version that a validator names; 0 if it names none, as before there were versions, or as somebody else's.
pub fn version(validator: &Document) -> u32 {
    let title = validator.get_document("$jsonSchema").and_then(|schema| schema.get_str("title"));
    title.ok().and_then(|title| title.strip_prefix(TITLE)?.parse().ok()).unwrap_or(0)
}

/// The index specifications per collection, as `createIndexes` takes them.
pub fn indexes() -> BTreeMap<String, Vec<Document>> {
    serde_json::from_str(INDEXES).expect("the embedded file holds index specifications")
}

/// Makes what is missing and changes what differs; does nothing when all is as it should be. So an account that may
/// only read and write will do once somebody with more rights has prepared the database.
pub async fn apply(database: &Database) -> Result<(), ProjectionError> {
    let mut present = present_validators(database).await?;
    for collection in COLLECTIONS {
        let wanted = validator(collection).expect("every collection has a validator");
        match present.remove(collection) {
            None => create(database, collection, wanted).await?,
            Some(found) if found.as_ref() == Some(&wanted) => {}
            Some(found) => match found.as_ref().map_or(0, version).cmp(&version(&wanted)) {
                Ordering::Greater => {}
                Ordering::Equal => {
                    tracing::warn!(
                        collection,
                        "the validator was changed by hand; ours is put in place again"
                    );
                    modify(database, collection, wanted).await?;
                }
                Ordering::Less => {
                    tracing::warn!(
                        collection,
                        version = version(&wanted),
                        "the validator is replaced by ours"
                    );
                    modify(database, collection, wanted).await?;
                }
            },
        }
    }
    for (collection, specifications) in indexes() {
        for specification in specifications {
            create_index(database, &collection, specification).await?;
        }
    }
    Ok(())
}

async fn present_validators(
    database: &Database,
) -> Result<BTreeMap<String, Option<Document>>, ProjectionError> {
    let listing = async {
        let cursor = database.list_collections().await?;
        let found: Vec<_> = cursor.try_collect().await?;
        Ok(found.into_iter().map(|one| (one.name, one.options.validator)).collect())
    };
    bounded("list collections", listing).await
}

async fn create(database: &Database, collection: &str, validator: Document) -> Result<(), ProjectionError> {
    let command = doc! { "create": collection, "validator": validator.clone() };
    match bounded("create collection", async { Ok(database.run_command(command).await?) }).await {
        Ok(_) => Ok(()),
        // Another leader was faster.
        Err(error) if command_code(&error) == Some(NAMESPACE_EXISTS) => {
            modify(database, collection, validator).await
        }
        Err(error) => Err(error),
    }
}

async fn modify(database: &Database, collection: &str, validator: Document) -> Result<(), ProjectionError> {
    let command = doc! {
        "collMod": collection,
        "validator": validator,
        "validationLevel": "strict",
        "validationAction": "error",
    };
    bounded("change validator", async { Ok(database.run_command(command).await?) }).await?;
    Ok(())
}

async fn create_index(
    database: &Database,
    collection: &str,
    specification: Document,
) -> Result<(), ProjectionError> {
    let name = specification.get_str("name").unwrap_or_default().to_string();
    let command = doc! { "createIndexes": collection, "indexes": [Bson::Document(specification)] };
    match bounded("create index", async { Ok(database.run_command(command).await?) }).await {
        Ok(_) => Ok(()),
        Err(ProjectionError::Driver(error)) => match error.kind.as_ref() {
            ErrorKind::Command(command) if INDEX_CONFLICTS.contains(&command.code) => {
                Err(ProjectionError::IndexConflict {
                    collection: collection.to_string(),
                    name,
                    message: command.message.clone(),
                })
            }
            _ => Err(ProjectionError::Driver(error)),
        },
        Err(error) => Err(error),
    }
}

fn command_code(error: &ProjectionError) -> Option<i32> {
    match error {
        ProjectionError::Driver(error) => match error.kind.as_ref() {
            ErrorKind::Command(command) => Some(command.code),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claim: a validator that changes gets a new version. (A failure here: raise the version in the file's `title`, then
    /// write both down.)
    #[test]
    fn a_changed_validator_has_a_new_version() {
        let told: Vec<String> = COLLECTIONS
            .iter()
            .map(|collection| {
                let validator = validator(collection).expect("a validator");
                let bytes = serde_json::to_vec(&validator).expect("JSON");
                format!("{collection} {} {:08x}", version(&validator), crc32fast::hash(&bytes))
            })
            .collect();
        let known = [
            "rewards 1 7120eaa3",
            "intervals 1 ffc4c325",
            "observations 1 39050900",
            "members 1 3eef55d0",
            "elections 1 f299fb5e",
            "projection 1 667f2e51",
        ];
        assert_eq!(told, known);
    }

    #[test]
    fn the_embedded_files_are_complete() {
        for collection in COLLECTIONS {
            let validator = validator(collection).expect("a validator");
            let schema = validator.get_document("$jsonSchema").expect("a schema");
            let required = schema.get_array("required").expect("required fields");
            let properties = schema.get_document("properties").expect("properties");
            assert_eq!(required.len(), properties.len(), "{collection}");
        }
        assert_eq!(validator("other"), None);
        for (collection, specifications) in indexes() {
            assert!(COLLECTIONS.contains(&collection.as_str()), "{collection}");
            assert!(specifications.iter().all(|one| one.get_str("name").is_ok()));
        }
    }
}
