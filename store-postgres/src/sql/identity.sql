SELECT id, format FROM indelible.store
