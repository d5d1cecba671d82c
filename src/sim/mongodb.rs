//! A MongoDB in memory: as much of it as the projection uses, with the meaning that the real one gives to each request.
//!
//! What it shows at once it keeps only once it has been synced: a power cut takes the last unsynced changes back. Filters
//! and updates are interpreted from the documents that the projection really sends; one that uses an operator that is
//! not known here fails as a malformed request does.

use std::collections::BTreeMap;
use std::ops::Range;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Bson, Document};

use crate::database::documents::id_key;
use crate::database::errors::ProjectionError;
use crate::database::ports::{Replaced, Replacement, Updated};

/// `BadValue`, the code of a malformed request.
const BAD_VALUE: i32 = 2;

/// What is asked of the server.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Collections, validators, indexes.
    Prepare,
    /// See [`crate::database::ports::Server::find`].
    Find {
        /// Where.
        collection: &'static str,
        /// Which.
        filter: Document,
    },
    /// See [`crate::database::ports::Server::insert`].
    Insert {
        /// Where.
        collection: &'static str,
        /// What.
        documents: Vec<RawDocumentBuf>,
    },
    /// See [`crate::database::ports::Server::update`].
    Update {
        /// Where.
        collection: &'static str,
        /// Which.
        filter: Document,
        /// How.
        change: Document,
        /// Whether to make one if there is none.
        upsert: bool,
    },
    /// See [`crate::database::ports::Server::delete`].
    Delete {
        /// Where.
        collection: &'static str,
        /// Which.
        filter: Document,
    },
    /// See [`crate::database::ports::Server::replace`].
    Replace {
        /// Where.
        collection: &'static str,
        /// What, and by what.
        replacements: Vec<Replacement>,
        /// Whether to insert those that replace nothing.
        upsert: bool,
    },
}

impl Request {
    /// In how many steps the server does it; between two steps it does other things.
    pub fn steps(&self) -> usize {
        match self {
            Request::Insert { documents, .. } => documents.len(),
            Request::Replace { replacements, .. } => replacements.len(),
            _ => 1,
        }
    }

    /// Whether it changes anything.
    pub fn is_write(&self) -> bool {
        !matches!(self, Request::Prepare | Request::Find { .. })
    }

    /// A few words for the trace.
    pub fn words(&self) -> String {
        match self {
            Request::Prepare => "prepare".to_string(),
            Request::Find { collection, filter } => format!("find in {collection} {filter}"),
            Request::Insert { collection, documents } => {
                format!("insert {} into {collection}", documents.len())
            }
            Request::Update { collection, change, .. } => format!("update {collection} {change}"),
            Request::Delete { collection, filter } => format!("delete from {collection} {filter}"),
            Request::Replace { collection, replacements, .. } => {
                format!("replace {} in {collection}", replacements.len())
            }
        }
    }
}

/// What the server answers; it grows with every step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reply {
    /// Of a find.
    pub found: Vec<RawDocumentBuf>,
    /// Of an insert: positions that were there already.
    pub duplicates: Vec<usize>,
    /// Of an update.
    pub updated: Updated,
    /// Of a replacement.
    pub replaced: Replaced,
}

/// One document became another.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Where.
    pub collection: &'static str,
    /// [`id_key`] of the document.
    pub key: Vec<u8>,
    /// What was there.
    pub before: Option<RawDocumentBuf>,
    /// What is there now.
    pub after: Option<RawDocumentBuf>,
}

/// The documents of a collection by their keys.
pub type Collection = BTreeMap<Vec<u8>, RawDocumentBuf>;

/// All collections.
#[derive(Debug, Default)]
pub struct Tables {
    collections: BTreeMap<&'static str, Collection>,
    /// What a power cut may take back, oldest first.
    unsynced: Vec<Change>,
}

fn malformed(what: impl ToString) -> ProjectionError {
    ProjectionError::Write { action: "simulated", code: BAD_VALUE, message: what.to_string() }
}

impl Tables {
    /// The documents of a collection.
    pub fn collection(&self, name: &'static str) -> &Collection {
        static EMPTY: Collection = Collection::new();
        self.collections.get(name).unwrap_or(&EMPTY)
    }

    /// How many changes a power cut may take back.
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Does some steps of a request. Returns what changed.
    ///
    /// # Errors
    /// When the request is malformed: a bug of whoever sent it.
    pub fn execute(
        &mut self,
        request: &Request,
        steps: Range<usize>,
        reply: &mut Reply,
    ) -> Result<Vec<Change>, ProjectionError> {
        let from = self.unsynced.len();
        match request {
            Request::Prepare => {}
            Request::Find { collection, filter } => {
                let found = self.matching(collection, filter)?;
                reply.found =
                    found.into_iter().map(|key| self.collection(collection)[&key].clone()).collect();
            }
            Request::Insert { collection, documents } => {
                for at in steps {
                    let key = id_key(&documents[at]);
                    if self.collection(collection).contains_key(&key) {
                        reply.duplicates.push(at);
                    } else {
                        self.put(collection, key, Some(documents[at].clone()));
                    }
                }
            }
            Request::Update { collection, filter, change, upsert } => {
                reply.updated = self.update(collection, filter, change, *upsert)?;
            }
            Request::Delete { collection, filter } => {
                if let Some(key) = self.matching(collection, filter)?.into_iter().next() {
                    self.put(collection, key, None);
                }
            }
            Request::Replace { collection, replacements, upsert } => {
                for at in steps {
                    self.replace(collection, at, &replacements[at], *upsert, &mut reply.replaced)?;
                }
            }
        }
        Ok(self.unsynced[from..].to_vec())
    }

    /// Everything that is there now is there for good.
    pub fn sync(&mut self) {
        self.unsynced.clear();
    }

    /// A power cut: of the unsynced changes, only the first `kept` survive.
    pub fn power_cut(&mut self, kept: usize) {
        for change in self.unsynced.split_off(kept).into_iter().rev() {
            let collection = self.collections.entry(change.collection).or_default();
            match change.before {
                Some(before) => collection.insert(change.key, before),
                None => collection.remove(&change.key),
            };
        }
        self.unsynced.clear();
    }

    fn put(&mut self, collection: &'static str, key: Vec<u8>, after: Option<RawDocumentBuf>) {
        let documents = self.collections.entry(collection).or_default();
        let before = match after.clone() {
            Some(document) => documents.insert(key.clone(), document),
            None => documents.remove(&key),
        };
        self.unsynced.push(Change { collection, key, before, after });
    }

    fn matching(&self, collection: &'static str, filter: &Document) -> Result<Vec<Vec<u8>>, ProjectionError> {
        let mut found = Vec::new();
        for (key, document) in self.collection(collection) {
            if matches(document, filter)? {
                found.push(key.clone());
            }
        }
        Ok(found)
    }

    fn update(
        &mut self,
        collection: &'static str,
        filter: &Document,
        change: &Document,
        upsert: bool,
    ) -> Result<Updated, ProjectionError> {
        if let Some(key) = self.matching(collection, filter)?.into_iter().next() {
            let before = &self.collection(collection)[&key];
            let mut document = Document::try_from(&**before).map_err(malformed)?;
            operate(&mut document, change, false)?;
            let after = RawDocumentBuf::try_from(&document).map_err(malformed)?;
            if after != *before {
                self.put(collection, key, Some(after));
            }
            return Ok(Updated { matched: true, inserted: false });
        }
        if !upsert {
            return Ok(Updated::default());
        }
        // A new document begins with what the filter says it equals.
        let mut document = filter.clone();
        operate(&mut document, change, true)?;
        let after = RawDocumentBuf::try_from(&document).map_err(malformed)?;
        let key = id_key(&after);
        if self.collection(collection).contains_key(&key) {
            return Err(malformed("an upsert of one document met its own key"));
        }
        self.put(collection, key, Some(after));
        Ok(Updated { matched: false, inserted: true })
    }

    fn replace(
        &mut self,
        collection: &'static str,
        at: usize,
        replacement: &Replacement,
        upsert: bool,
        replaced: &mut Replaced,
    ) -> Result<(), ProjectionError> {
        let filter = Document::try_from(&*replacement.filter).map_err(malformed)?;
        let key = id_key(&replacement.document);
        let found = self.matching(collection, &filter)?.into_iter().next();
        match found {
            Some(found) if found != key => return Err(malformed("a replacement changes the _id")),
            None if !upsert => return Ok(()),
            None if self.collection(collection).contains_key(&key) => {
                replaced.duplicates.push(at);
                return Ok(());
            }
            Some(_) | None => {}
        }
        replaced.changed += 1;
        self.put(collection, key, Some(replacement.document.clone()));
        Ok(())
    }
}

/// Whether a document is what a filter asks for: fields equal to values, or `$ne`, `$in`, `$lt`, `$gte` of them.
fn matches(document: &RawDocument, filter: &Document) -> Result<bool, ProjectionError> {
    for (field, wanted) in filter {
        let found = document.get(field).map_err(malformed)?.map(Bson::try_from).transpose();
        let found = found.map_err(malformed)?.unwrap_or(Bson::Null);
        let operators = wanted.as_document().filter(|one| one.keys().any(|key| key.starts_with('$')));
        let good = match operators {
            None => found == *wanted,
            Some(operators) => {
                let mut good = true;
                for (operator, operand) in operators {
                    good &= match (operator.as_str(), operand) {
                        ("$ne", operand) => found != *operand,
                        ("$in", Bson::Array(operands)) => operands.contains(&found),
                        ("$lt", operand) => is_less(&found, operand)?,
                        ("$gte", operand) => found != Bson::Null && !is_less(&found, operand)?,
                        _ => return Err(malformed(format!("unknown operator {operator}"))),
                    };
                }
                good
            }
        };
        if !good {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_less(one: &Bson, other: &Bson) -> Result<bool, ProjectionError> {
    match (one, other) {
        (Bson::Int64(one), Bson::Int64(other)) => Ok(one < other),
        (Bson::DateTime(one), Bson::DateTime(other)) => Ok(one < other),
        // A comparison finds only values of its own type.
        (Bson::Null, _) => Ok(false),
        _ => Err(malformed(format!("{one} and {other} are not compared by anybody"))),
    }
}

/// Applies update operators to a document.
fn operate(document: &mut Document, change: &Document, new: bool) -> Result<(), ProjectionError> {
    for (operator, fields) in change {
        let fields = fields.as_document().ok_or_else(|| malformed("an operator needs fields"))?;
        for (field, value) in fields {
            let set = match operator.as_str() {
                "$set" => true,
                "$setOnInsert" => new,
                "$max" => match document.get(field) {
                    None => true,
                    Some(present) => is_less(present, value)?,
                },
                _ => return Err(malformed(format!("unknown operator {operator}"))),
            };
            if set {
                document.insert(field.clone(), value.clone());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn raw(document: &Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(document).expect("a document")
    }

    fn run(tables: &mut Tables, request: &Request) -> Reply {
        let mut reply = Reply::default();
        tables.execute(request, 0..request.steps(), &mut reply).expect("well formed");
        reply
    }

    fn all(tables: &mut Tables) -> Vec<Document> {
        let reply = run(tables, &Request::Find { collection: "c", filter: doc! {} });
        reply.found.iter().map(|one| Document::try_from(&**one).expect("valid")).collect()
    }

    /// Claim: an insert leaves what is there, says where it was, and a power cut takes back what was not synced.
    #[test]
    fn inserts_are_unique_and_forgotten_until_they_are_synced() {
        let mut tables = Tables::default();
        let insert = |documents: &[Document]| Request::Insert {
            collection: "c",
            documents: documents.iter().map(raw).collect(),
        };
        let [one, two, other] =
            [doc! {"_id": 1_i64, "v": 1}, doc! {"_id": 2_i64, "v": 2}, doc! {"_id": 1_i64, "v": 9}];
        assert!(run(&mut tables, &insert(std::slice::from_ref(&one))).duplicates.is_empty());
        tables.sync();
        assert_eq!(run(&mut tables, &insert(&[two.clone(), other])).duplicates, vec![1]);
        assert_eq!(all(&mut tables), vec![one.clone(), two]);
        assert_eq!(tables.unsynced(), 1);
        tables.power_cut(0);
        assert_eq!(all(&mut tables), vec![one]);
    }

    /// Claim: `$max` only raises, `$setOnInsert` only counts for a new document, an unknown operator is refused.
    #[test]
    fn updates_mean_what_they_mean_to_mongodb() {
        let mut tables = Tables::default();
        let update = |change: Document, upsert| Request::Update {
            collection: "c",
            filter: doc! {"_id": "a"},
            change,
            upsert,
        };
        assert_eq!(run(&mut tables, &update(doc! {"$set": {"n": 1_i64}}, false)).updated, Updated::default());
        let first = doc! {"$setOnInsert": {"n": 5_i64}};
        assert!(run(&mut tables, &update(first.clone(), true)).updated.inserted);
        let again = doc! {"$setOnInsert": {"n": 7_i64}, "$max": {"n": 3_i64, "m": 2_i64}};
        assert!(run(&mut tables, &update(again, true)).updated.matched);
        assert_eq!(all(&mut tables), vec![doc! {"_id": "a", "n": 5_i64, "m": 2_i64}]);
        let request = update(doc! {"$inc": {"n": 1_i64}}, false);
        assert!(tables.execute(&request, 0..1, &mut Reply::default()).is_err());
    }

    /// Claim: a guarded replacement takes the place of an older document only; where none is older, its key is a
    /// duplicate.
    #[test]
    fn replacements_never_go_back() {
        let mut tables = Tables::default();
        let replace = |index: i64, upsert| Request::Replace {
            collection: "c",
            replacements: vec![Replacement {
                filter: raw(&doc! {"_id": "a", "index": {"$lt": index}}),
                document: raw(&doc! {"_id": "a", "index": index}),
            }],
            upsert,
        };
        assert_eq!(run(&mut tables, &replace(3, false)).replaced, Replaced::default());
        assert_eq!(run(&mut tables, &replace(3, true)).replaced.changed, 1);
        assert_eq!(run(&mut tables, &replace(5, true)).replaced.changed, 1);
        assert_eq!(
            run(&mut tables, &replace(4, true)).replaced,
            Replaced { changed: 0, duplicates: vec![0] }
        );
        assert_eq!(all(&mut tables), vec![doc! {"_id": "a", "index": 5_i64}]);
        tables.power_cut(1);
        assert_eq!(all(&mut tables), vec![doc! {"_id": "a", "index": 3_i64}]);
    }
}
