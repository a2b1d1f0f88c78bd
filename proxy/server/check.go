package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"hubcap/cache/blobs"
	"hubcap/proxy/advice"
	"hubcap/proxy/config"
	"hubcap/proxy/port"
)

// refusedDir returns the error of a data directory that cannot be used.
func refusedDir(dir string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s (%w)", advice.NotWritable(dir, os.Geteuid(), os.Getegid()), err)
	}
	return fmt.Errorf("HUBCAP_DATA_DIR=%s: %w", dir, err)
}

// CheckDir returns the error for which New would refuse a data directory. It
// changes nothing.
func CheckDir(dir string) error {
	if err := blobs.Check(dir); err != nil {
		return refusedDir(dir, err)
	}
	return nil
}

// Check returns the error for which New or Serve would refuse a configuration.
// It changes nothing, and finds no fault with a hubcap that runs with the same
// configuration.
func Check(c config.Config) error {
	if err := CheckDir(c.DataDir); err != nil {
		return err
	}
	for _, l := range listeners(c) {
		if err := port.Check(string(l.address), l.cert, l.key); err != nil {
			return l.refused(err)
		}
	}
	return nil
}
