//go:build !linux

package testkit

// InMemory changes nothing on this system.
func InMemory() {}

func removeMemoryDir() {}
