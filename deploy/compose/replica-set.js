// Makes members of the replica set of those that are not yet, one after the other; run by docker-compose.yml with mongosh.
// An error ends it with exit code 1, and compose runs it again.
const wanted = ["mongodb:27017", "mongodb-2:27017", "mongodb-3:27017"]
const members = rs.conf().members.map(member => member.host)
for (const host of wanted.filter(host => !members.includes(host))) {
  // A majority with the new member must have taken the change before the next one may come.
  print(`adding ${host}`)
  rs.add(host)
}
const states = rs.status().members.map(member => `${member.name} ${member.stateStr}`)
print(states.join(", "))
