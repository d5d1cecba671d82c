// Every fine, as it arrives.
//
// For alarms: it begins now, and what arrives while nobody watches is not shown. The order is that of arrival: within a batch
// movements are inserted in any order. A document comes again only if somebody has removed it and it was projected anew.
// Needs a replica set.
const stream = db.rewards.watch(
  [
    { "$match": { "operationType": "insert", "fullDocument.kind": { "$in": ["penalty", "claim_penalty"] } } }
  ],
  {}
)
while (!stream.isClosed()) {
  const change = stream.tryNext()
  if (change !== null) printjson(change.fullDocument)
}
