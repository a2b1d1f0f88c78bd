package server

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"hubcap/proxy/advice"
)

// TestDirectoryThatIsNotWritable is told with the user that has to own it. Root
// may write everywhere, so the error stands for that of the system.
func TestDirectoryThatIsNotWritable(t *testing.T) {
	err := refusedDir("/data", fmt.Errorf("make the data directory: %w", fs.ErrPermission))
	if text := advice.NotWritable("/data", os.Geteuid(), os.Getegid()); !strings.HasPrefix(err.Error(), text) {
		t.Errorf("%v, want %s", err, text)
	}
	if err := refusedDir("/data", fs.ErrInvalid); strings.Contains(err.Error(), "chown") {
		t.Error(err)
	}
}
