// How far does each chain reach, and does the checkpoint agree?
//
// Two documents. `head` is the last number in the collection, `checkpoint` how far the projection has said that it is,
// `beyond` what was written after that: 0 while nothing is on its way, and never negative unless documents were removed.
// Compare `hash` with `head_hash` of `super-node status -o json`.
db.projection.aggregate(
  [
    { "$set": { "checkpoints": { "rewards": "$checkpoint", "intervals": "$intervals" } } },
    { "$lookup": { "from": "rewards", "pipeline": [{ "$sort": { "_id": -1 } }, { "$limit": 1 }], "as": "rewards" } },
    { "$lookup": { "from": "intervals", "pipeline": [{ "$sort": { "_id": -1 } }, { "$limit": 1 }], "as": "intervals" } },
    { "$set": { "chains": [
      { "chain": "rewards", "checkpoint": "$checkpoints.rewards", "last": { "$first": "$rewards" } },
      { "chain": "intervals", "checkpoint": "$checkpoints.intervals", "last": { "$first": "$intervals" } }
    ] } },
    { "$unwind": "$chains" },
    { "$project": {
      "_id": 0,
      "chain": "$chains.chain",
      "checkpoint": "$chains.checkpoint",
      "head": { "$ifNull": ["$chains.last._id", 0] },
      "beyond": { "$subtract": [{ "$ifNull": ["$chains.last._id", 0] }, "$chains.checkpoint"] },
      "hash": "$chains.last.hash"
    } }
  ]
).forEach(printjson)
