// Package failpoint marks the moments at which the storage must survive the
// death of the process. In a build with the tag "failpoint" one of them can be
// armed, by the environment variable CRASH_AT, and kills the process as kill -9
// does; in any other build there is nothing of it. The package knows the names
// of the moments, and not what happens between them.
package failpoint

// Point is a moment between two steps.
type Point string

// The moments, in the order in which they come. A comment says what has just
// been done.
const (
	LayoutWritten Point = "layout.written" // beside its place
	LayoutRenamed Point = "layout.renamed"

	SaveBegun   Point = "save.begun"
	SaveSynced  Point = "save.synced"  // the content
	SaveWritten Point = "save.written" // the note, beside its place
	SaveRenamed Point = "save.renamed"

	CommitBegun     Point = "commit.begun"
	CommitTruncated Point = "commit.truncated"
	CommitSynced    Point = "commit.synced" // the content
	CommitCleared   Point = "commit.cleared"
	CommitMade      Point = "commit.made" // the directory
	CommitRenamed   Point = "commit.renamed"
	CommitPlaced    Point = "commit.placed"  // the name is on disk
	CommitTidied    Point = "commit.tidied"  // the note is gone
	CommitCounted   Point = "commit.counted" // in the ledger

	RemoveBegun    Point = "remove.begun"
	RemoveUnlinked Point = "remove.unlinked"
	RemoveCleared  Point = "remove.cleared" // the download of the same digest too
	RemoveCounted  Point = "remove.counted" // in the ledger
	RemoveForgot   Point = "remove.forgot"  // by the index

	SnapshotBegun   Point = "snapshot.begun"
	SnapshotWritten Point = "snapshot.written" // beside its place, not synced
	SnapshotSynced  Point = "snapshot.synced"
	SnapshotRenamed Point = "snapshot.renamed"

	AsideBegun   Point = "aside.begun" // an index is in the way
	AsideRenamed Point = "aside.renamed"
	AsideSynced  Point = "aside.synced"

	RestoreBegun   Point = "restore.begun"
	RestoreCleared Point = "restore.cleared" // of an earlier try
	RestoreOpened  Point = "restore.opened"  // a new index, beside its place
	RestoreWritten Point = "restore.written" // not all on disk
	RestoreFilled  Point = "restore.filled"  // all on disk
	RestoreRenamed Point = "restore.renamed"
	RestoreSynced  Point = "restore.synced"
	RestoreTidied  Point = "restore.tidied" // what was known against the one before is forgotten
)

// All are the points.
var All = []Point{
	LayoutWritten, LayoutRenamed,
	SaveBegun, SaveSynced, SaveWritten, SaveRenamed,
	CommitBegun, CommitTruncated, CommitSynced, CommitCleared, CommitMade, CommitRenamed, CommitPlaced, CommitTidied, CommitCounted,
	RemoveBegun, RemoveUnlinked, RemoveCleared, RemoveCounted, RemoveForgot,
	SnapshotBegun, SnapshotWritten, SnapshotSynced, SnapshotRenamed,
	AsideBegun, AsideRenamed, AsideSynced,
	RestoreBegun, RestoreCleared, RestoreOpened, RestoreWritten, RestoreFilled, RestoreRenamed, RestoreSynced, RestoreTidied,
}
