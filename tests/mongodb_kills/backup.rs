//! A backup of a MongoDB database, and putting it back: what `mongodump --oplog` and `mongorestore --drop` leave.

use bson::{Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt as _;
use mongodb::Database;
use super_node::database::documents::{COLLECTIONS, PROJECTION};

/// The documents of all collections as they were at one time.
pub struct Backup {
    collections: Vec<(&'static str, Vec<RawDocumentBuf>)>,
}

impl Backup {
    /// Reads everything. The checkpoint comes first: what it covers is there by then.
    pub async fn take(database: &Database) -> Backup {
        let mut collections = Vec::new();
        let others = COLLECTIONS.into_iter().filter(|one| *one != PROJECTION);
        for collection in std::iter::once(PROJECTION).chain(others) {
            let cursor = database.collection::<RawDocumentBuf>(collection).find(doc! {}).await.expect("find");
            collections.push((collection, cursor.try_collect().await.expect("documents")));
        }
        Backup { collections }
    }

    /// The checkpoint in it.
    pub fn checkpoint(&self) -> i64 {
        let (_, projection) = &self.collections[0];
        projection.first().map_or(0, |document| document.get_i64("checkpoint").expect("a checkpoint"))
    }

    /// Removes what is there and puts this in place. Nobody else must write meanwhile.
    pub async fn restore(&self, database: &Database) {
        for (name, documents) in &self.collections {
            database.collection::<Document>(name).delete_many(doc! {}).await.expect("delete");
            if !documents.is_empty() {
                database.collection::<RawDocumentBuf>(name).insert_many(documents).await.expect("insert");
            }
        }
    }
}
