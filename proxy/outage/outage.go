// Package outage is what an operator knows and does before the line is cut: the
// report on which images would survive, the repair of those that would not, the
// drill that each pull is, and the switch that takes the box offline.
//
// Files: outage.go (the report), repair.go, shadow.go (the drill), offline.go.
package outage
