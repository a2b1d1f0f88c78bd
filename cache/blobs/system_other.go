//go:build !linux

package blobs

import (
	"errors"
	"io/fs"
	"os"
)

// allocate does nothing where the system has no call for it: a full disk then
// shows in the middle of a download instead of before it.
func allocate(*os.File, int64) error { return nil }

// delaysWrites does not know where it was not tried.
func delaysWrites(*os.File) bool { return false }

// openBeneath cannot where the system has no call for it.
func openBeneath(*os.File, string) (*os.File, error) { return nil, errors.ErrUnsupported }

// writtenBack knows nothing where the system has no call for it.
func writtenBack(*os.File) error { return nil }

// signature changes with most of what is done to a file.
func signature(info fs.FileInfo) uint64 { return sum([]int64{info.Size(), info.ModTime().UnixNano()}) }
