package server

import (
	"fmt"

	"hubcap/cache/blobs"
	"hubcap/proxy/config"
	"hubcap/proxy/port"
)

// Check returns the error for which New or Serve would refuse a configuration.
// It changes nothing, and finds no fault with a hubcap that runs with the same
// configuration.
func Check(c config.Config) error {
	if err := blobs.Check(c.DataDir); err != nil {
		return fmt.Errorf("HUBCAP_DATA_DIR=%s: %w", c.DataDir, err)
	}
	for _, l := range listeners(c) {
		if err := port.Check(string(l.address), l.cert, l.key); err != nil {
			return l.refused(err)
		}
	}
	return nil
}
