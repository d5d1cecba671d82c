// Every movement, once and in order.
//
//   last   the last sequence that was dealt with: keep it where the results are kept, in one transaction with them
//
// For whoever does something with each movement. Everything up to the checkpoint is in MongoDB for good, and the checkpoint
// only grows; so the stream only says when to read, and no change is lost when it ends or its history is over: begin again
// from `last`. Needs a replica set.
let last = Long("0")
const stream = db.projection.watch(
  [
    { "$match": { "operationType": { "$in": ["insert", "update", "replace"] } } }
  ],
  { "fullDocument": "updateLookup" }
)
function read(projection) {
  if (projection === null) return
  const range = { _id: { $gt: last, $lte: projection.checkpoint } }
  db.rewards.find(range).sort({ _id: 1 }).readConcern("majority").forEach(movement => {
    printjson(movement)
    last = movement._id
  })
}
// What was there before the stream began.
read(db.projection.findOne())
while (!stream.isClosed()) {
  const change = stream.tryNext()
  if (change !== null) read(change.fullDocument)
}
