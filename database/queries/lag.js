// How far behind is MongoDB?
//
// One document: who projected last, how long ago it said how far it is, and how old the newest interval is that arrived. The
// second grows when nothing is projected any more, but also when nothing happens; the age of the interval should stay below
// two intervals' length. Records that MongoDB has not seen, only the cluster knows: `super-node status`.
db.projection.aggregate(
  [
    { "$lookup": { "from": "intervals", "pipeline": [{ "$sort": { "_id": -1 } }, { "$limit": 1 }], "as": "newest" } },
    { "$set": { "newest": { "$first": "$newest" } } },
    { "$project": {
      "node": 1,
      "term": 1,
      "checkpoint": 1,
      "interval": "$newest._id",
      "checkpoint_age_ms": { "$dateDiff": { "startDate": "$at", "endDate": "$$NOW", "unit": "millisecond" } },
      "interval_age_ms": { "$dateDiff": { "startDate": "$newest.settled_at", "endDate": "$$NOW", "unit": "millisecond" } }
    } }
  ]
).forEach(printjson)
