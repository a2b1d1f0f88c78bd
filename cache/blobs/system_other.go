//go:build !linux

package blobs

import (
	"errors"
	"io/fs"
	"os"
)

// allocate does nothing: the system has no call for it. A full disk is found in
// the middle of a download instead of before it.
func allocate(*os.File, int64) error { return nil }

// delaysWrites returns false: trial writes were not tested on this system.
func delaysWrites(*os.File) bool { return false }

// openBeneath fails: the system has no call for it.
func openBeneath(*os.File, string) (*os.File, error) { return nil, errors.ErrUnsupported }

// writtenBack does nothing: the system has no call for it.
func writtenBack(*os.File) error { return nil }

// signature changes with most changes of a file.
func signature(info fs.FileInfo) uint64 { return sum([]int64{info.Size(), info.ModTime().UnixNano()}) }

// kindOf knows no kinds on this system.
func kindOf(*os.File) (string, Trait) { return "", Plain }
