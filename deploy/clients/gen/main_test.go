package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// byHand are the files that are no client's.
var byHand = map[string]bool{"own-registry/hubcap.env": true}

func TestFilesAreUpToDate(t *testing.T) {
	files, err := texts()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join("..", name))
		if err != nil || string(got) != want {
			t.Errorf("%s differs from what /setup has (%v): run go generate ./deploy/clients/gen", name, err)
		}
	}
	err = fs.WalkDir(os.DirFS(".."), ".", func(name string, d fs.DirEntry, err error) error {
		if d.IsDir() && d.Name() == "gen" {
			return fs.SkipDir
		}
		if _, ok := files[name]; !d.IsDir() && !ok && !byHand[name] {
			t.Errorf("%s comes from nowhere", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
