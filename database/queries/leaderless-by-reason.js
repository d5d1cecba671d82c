// Which detector finds dead leaders, and how fast?
//
// One document per reason: elections, and the time without a leader: shortest, mean, longest, all together.
db.elections.aggregate(
  [
    { "$group": {
      "_id": "$reason",
      "elections": { "$sum": 1 },
      "shortest_ms": { "$min": "$leaderless_ms" },
      "mean_ms": { "$avg": "$leaderless_ms" },
      "longest_ms": { "$max": "$leaderless_ms" },
      "total_ms": { "$sum": "$leaderless_ms" }
    } },
    { "$sort": { "total_ms": -1, "_id": 1 } }
  ]
).forEach(printjson)
