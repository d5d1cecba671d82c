// In which intervals was nobody judged as usual, and why?
//
// One document per interval, the newest first: verdict `void` (too little evidence) or `correlated` (so many members were
// gone that the network is suspected), the reason, and which reports counted.
db.intervals.aggregate(
  [
    { "$match": { "verdict": { "$ne": "settled" } } },
    { "$sort": { "_id": -1 } },
    { "$project": { "_id": 0, "interval": "$_id", "cut_at": 1, "verdict": 1, "reason": 1, "observers": 1 } },
    { "$limit": 100 }
  ]
).forEach(printjson)
